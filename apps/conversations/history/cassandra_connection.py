"""A connection to Cassandra, which asks again after what may pass, until its caller's time is up."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from random import uniform
from typing import Any
from urllib.parse import unquote, urlsplit

import acsylla
from acsylla import errors

from apps.conversations.errors import Unavailable

logger = logging.getLogger(__name__)

DEADLINE_S = 5.0
REQUEST_TIMEOUT_S = 2.0  # less than the deadline: an answer that got lost is asked for again
MAX_AT_ONCE = 32  # statements under way for one call that asks about many partitions

# What may be otherwise a moment later. Everything else is a mistake of ours, and is not hidden behind a retry.
_PASSING = (
    errors.CassErrorLibNoHostsAvailable,
    errors.CassErrorLibNoStreams,
    errors.CassErrorLibRequestQueueFull,
    errors.CassErrorLibRequestTimedOut,
    errors.CassErrorLibUnableToConnect,
    errors.CassErrorLibWriteError,
    errors.CassErrorServerIsBootstrapping,
    errors.CassErrorServerOverloaded,
    errors.CassErrorServerReadFailure,
    errors.CassErrorServerReadTimeout,
    errors.CassErrorServerServerError,
    errors.CassErrorServerUnavailable,
    errors.CassErrorServerWriteFailure,
    errors.CassErrorServerWriteTimeout,
)
_NO_TABLE = (errors.CassErrorServerInvalidQuery, errors.CassExceptionInvalidQuery)


class Connection:
    """`url`: cassandra://[user:password@]host[,host…][:port]/keyspace."""

    def __init__(self, url: str, deadline_s: float) -> None:
        self._where = urlsplit(url)
        self._keyspace = self._where.path.strip("/")
        if not re.fullmatch("[a-z][a-z0-9_]{0,47}", self._keyspace):
            raise ValueError("CASSANDRA_URL must end in /keyspace: small letters, digits and _")
        self._deadline_s = deadline_s
        self._prepared: dict[str, Any] = {}
        self._last_error: Exception | None = None
        self.session: Any = None  # the driver's

    async def start(self, statements: Iterable[str]) -> None:
        """Connect, and prepare what is asked most. Raises Unavailable."""
        # No retries in the driver: `run` knows what may be asked again, and until when.
        cluster = acsylla.create_cluster(
            (self._where.hostname or "127.0.0.1").split(","),
            port=self._where.port or 9042,
            username=self._where.username and unquote(self._where.username),
            password=self._where.password and unquote(self._where.password),
            connect_timeout=DEADLINE_S,
            request_timeout=REQUEST_TIMEOUT_S,
            consistency=acsylla.Consistency.LOCAL_QUORUM,
            serial_consistency=acsylla.Consistency.LOCAL_SERIAL,
            token_aware_routing_shuffle_replicas=False,  # one proposer per partition: fewer Paxos rounds in vain
            retry_policy="fallthrough",
            constant_reconnect_delay_ms=1_000,
            coalesce_delay_us=2_000,  # with 200 its thread wakes ten times for each message
            log_level="critical",  # what fails is raised
            application_name="chat",
        )
        try:
            self.session = await cluster.create_session()
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*(self._prepare(cql) for cql in statements))
        except errors.CassException as error:
            await self.close()
            hint = " (has `manage.py sync_cassandra` been run?)" if isinstance(error, _NO_TABLE) else ""
            raise _unavailable(f"{error}{hint}") from error
        except TimeoutError as error:
            await self.close()
            raise _unavailable("it did not prepare the statements") from error

    async def close(self) -> None:
        self._prepared.clear()
        session, self.session = self.session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """All that is asked in here has `deadline_s` together. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError:
            raise _unavailable(self._last_error or "no answer in time") from self._last_error

    async def ask(self, cql: str, *values: Any) -> Any:
        """The rows. Raises Unavailable."""
        async with self.in_time():
            return await self.run(cql, *values)

    async def run(self, cql: str, *values: Any) -> Any:
        """
        The rows. Asks again after what may pass, until the caller's time is up (`in_time`).

        So a statement may be carried out more than once; why that is safe for these is told in cassandra.py.
        """
        waits = pauses(longest_s=0.64)
        while True:
            try:
                prepared = self._prepared.get(cql) or await self._prepare(cql)
                return await self.session.execute(prepared.bind(values))
            except _PASSING as error:
                self._last_error = error
                logger.warning("Cassandra did not decide: %s", error)
            await asyncio.sleep(next(waits))

    async def _prepare(self, cql: str) -> Any:
        if self.session is None:
            raise Unavailable("The history is not connected.", retry_after_ms=1_000)
        prepared = await self.session.create_prepared(cql.format(keyspace=self._keyspace))
        self._prepared[cql] = prepared
        return prepared


def pauses(longest_s: float) -> Iterator[float]:
    """In seconds: none at first, then at random below 10 ms, 20 ms … `longest_s`."""
    yield 0
    for doublings in count():
        yield uniform(0, min(longest_s, 0.01 * 2 ** min(doublings, 10)))


async def in_turns(questions: Iterable[Any]) -> list[Any]:
    """All answers, with a bounded number of questions under way."""
    turn = asyncio.Semaphore(MAX_AT_ONCE)

    async def answer(question: Any) -> Any:
        async with turn:
            return await question

    return await asyncio.gather(*map(answer, questions))


def _unavailable(reason: object) -> Unavailable:
    return Unavailable(f"The history did not decide in time: {reason}.", retry_after_ms=1_000)

"""What a history store stands on, so that one suite can open it, share it between processes, and take it away."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlsplit

from apps.conversations.history.base import HistoryStore
from apps.conversations.history.cassandra import CassandraHistory
from apps.conversations.history.sqlite import SqliteHistory

BUCKET_SIZE = 8  # so that a few messages cross several borders


class Backend(Protocol):
    where: str

    def store(self, *, deadline_s: float = 10.0) -> HistoryStore:
        """A store of its own, as another process would have; not started."""
        ...

    @asynccontextmanager
    def away(self) -> AsyncIterator[None]:
        """While it lasts, the stores decide nothing."""
        ...


class Sqlite:
    def __init__(self, path: str) -> None:
        self.where = path

    def store(self, *, deadline_s: float = 10.0) -> HistoryStore:
        return SqliteHistory(Path(self.where), deadline_s=deadline_s)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        other = sqlite3.connect(self.where, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
        other.close()


class Cassandra:
    """`line`: the wire to it that the stores use, and that can be cut."""

    def __init__(self, url: str, line: "Line | None" = None) -> None:
        self.where = url
        self._line = line

    def store(self, *, deadline_s: float = 10.0) -> HistoryStore:
        url = urlsplit(self.where)
        if self._line is not None:
            credentials, at, _ = url.netloc.rpartition("@")
            url = url._replace(netloc=f"{credentials}{at}127.0.0.1:{self._line.port}")
        return CassandraHistory(url.geturl(), bucket_size=BUCKET_SIZE, deadline_s=deadline_s)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        assert self._line is not None
        self._line.cut()
        yield
        self._line.mend()


class Line:
    """A TCP forwarder to Cassandra. Cut, it takes what it is given and passes nothing on, as a dead network does."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._to = (where.hostname or "127.0.0.1", where.port or 9042)
        self._whole = asyncio.Event()
        self._whole.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *args: object) -> None:
        self.mend()
        self._server.close()
        for end in list(self._ends):
            end.transport.abort()
        await asyncio.gather(*self._calls)
        await self._server.wait_closed()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        """What was on its way when the line was cut is lost, with the connections it was on."""
        if not self._whole.is_set():
            for end in list(self._ends):
                end.transport.abort()
            self._whole.set()

    def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.ensure_future(self._connect(reader, writer))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._to)
        ends = {writer, far_writer}
        self._ends |= ends
        await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))
        self._ends -= ends

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                await self._whole.wait()
                target.write(data)
                await target.drain()
        target.close()


BACKENDS = {"sqlite": Sqlite, "cassandra": Cassandra}

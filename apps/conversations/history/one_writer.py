"""
One writer for a conversation that several nodes write at once.

Of conditional batches in the same partition at the same moment one wins; the others cost the store as much and were for
nothing. So a node that has lost twice to others tells all, and for a while those who have something for this
conversation hand it to the node that all choose alike, whose group commit stores it together with everybody else's.

This only saves work. Nothing depends on the choice, on an answer, or on there being one writer: whoever gets no answer
writes by itself, and the store knows a message by its id, whichever node brings it and how often.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any
from uuid import UUID

import msgspec
from cachetools import TTLCache
from redis.exceptions import RedisError

from apps.conversations.errors import Unavailable
from apps.conversations.history.base import Contended, HistoryStore, MembersChanged
from apps.conversations.messages import Draft, Message
from apps.presence import metrics
from apps.presence.exchange import Exchange
from apps.presence.registry import Registry

logger = logging.getLogger(__name__)

CONTENDED_S = 60.0  # then a node tries alone again, which costs it two lost batches if nothing has changed
LET_COME_S = 0.015  # about what a batch takes
ANSWER_S = 2.0  # leaves time to write by oneself before a client gives up
KNOWN_S = 1.0  # for which the list of live nodes is used, or that Redis gave none; a dead node shows when it is asked
SILENT_S = 10.0  # for which a node that has not answered is not asked again; if it has died, its lease ends before

AppendHere = Callable[[Sequence[Draft], int], Awaitable[list[Message]]]


class OneWriter:
    """`store`, written through the node that all choose while a conversation is contended, and else directly."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._others: _Others | None = None  # a command or a task is no node, and writes by itself
        self._contended: TTLCache[UUID, bool] = TTLCache(10_000, CONTENDED_S, timer=time.monotonic)

    def attach(self, exchange: Exchange, registry: Registry, append_here: AppendHere) -> None:
        """Write for other nodes from now on, and let them write for the one whose these are."""
        self._others = _Others(exchange, registry, append_here)
        exchange.on("history.contended", self._on_contended)

    async def detach(self) -> None:
        """This node ends: it writes by itself what it still has, and others get the answers that they wait for."""
        others, self._others = self._others, None
        if others is not None:
            await others.close()

    async def let_more_come(self, conversation_id: UUID) -> None:
        """The writer pauses before a commit: alone, each message would be as dear as a batch of them."""
        if self._others is None or conversation_id not in self._contended:
            return
        with suppress(_WriteAlone):
            if await self._others.writer_of(conversation_id) is None:
                await asyncio.sleep(LET_COME_S)

    async def append(self, drafts: Sequence[Draft], members_version: int, *, for_others: bool = False) -> list[Message]:
        """As HistoryStore.append. `for_others`: some of them were handed over, and are handed to nobody else."""
        if self._others is not None:
            try:
                return await self._append_together(self._others, drafts, members_version, for_others)
            except _WriteAlone as reason:
                logger.info("this node writes by itself: %s", reason)
        return await self._store.append(drafts, members_version)

    async def _append_together(
        self, others: "_Others", drafts: Sequence[Draft], members_version: int, for_others: bool
    ) -> list[Message]:
        conversation_id = drafts[0].conversation_id
        may_ask = conversation_id in self._contended and not for_others
        if may_ask and (writer := await others.writer_of(conversation_id)) is not None:
            return await others.ask(writer, drafts, members_version)
        try:
            return await self._store.append(drafts, members_version, give_way=True)
        except Contended:
            # Also who has not lost is to know: with one message at a time it is always faster than who writes for all.
            self._contended[conversation_id] = True
            await others.tell({"type": "history.contended", "conversation": conversation_id.bytes})
        if for_others or (writer := await others.writer_of(conversation_id)) is None:
            raise _WriteAlone("it was chosen")
        return await others.ask(writer, drafts, members_version)

    async def _on_contended(self, message: dict[str, Any]) -> None:
        self._contended[UUID(bytes=message["conversation"])] = True


class CannotWrite(Exception):
    """This node has no connection to the store. Another one may have."""


class _WriteAlone(Exception):
    """No other node writes for this one. Whether one has is unknown."""


class _Stored(msgspec.Struct, frozen=True, tag=True):
    messages: list[Message]


class _MembersChanged(msgspec.Struct, frozen=True, tag=True):
    version: int


class _Unavailable(msgspec.Struct, frozen=True, tag=True):
    detail: str
    retry_after_ms: int | None


class _Declined(msgspec.Struct, frozen=True, tag=True):
    """For a reason that has to do with that node alone."""


_Outcome = _Stored | _MembersChanged | _Unavailable | _Declined
_outcomes = msgspec.msgpack.Decoder(_Outcome)
_drafts = msgspec.msgpack.Decoder(list[Draft])


class _Others:
    """The other nodes: who of them writes, what this one asks of them, and they of it. `exchange` is its own."""

    def __init__(self, exchange: Exchange, registry: Registry, append_here: AppendHere) -> None:
        self._exchange, self._registry, self._append_here = exchange, registry, append_here
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[_Outcome]] = {}
        self._live: set[str] = set()  # the channels of all nodes, as of when this one asked; none: Redis did not say
        self._asks_again_at = 0.0
        self._silent: TTLCache[str, bool] = TTLCache(1_000, SILENT_S, timer=time.monotonic)
        self._writing: set[asyncio.Task[None]] = set()  # for others
        self._is_closed = False
        exchange.on("history.append", self._on_append)
        exchange.on("history.appended", self._on_appended)

    async def close(self) -> None:
        self._is_closed = True  # nothing is heard any more
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(_Declined())
        await asyncio.gather(*self._writing)

    async def writer_of(self, conversation_id: UUID) -> str | None:
        """
        The channel of the node that all who know the same nodes choose (rendezvous hashing); None: it is this one.

        Raises _WriteAlone.
        """
        if time.monotonic() > self._asks_again_at:
            self._live = await self._find_live()
            self._asks_again_at = time.monotonic() + KNOWN_S
        if not self._live:
            raise _WriteAlone("Redis is away")
        nodes = self._live - set(self._silent)
        chosen = max(nodes, key=lambda node: hashlib.blake2b(node.encode(), key=conversation_id.bytes).digest())
        return None if chosen == self._exchange.channel else chosen

    async def _find_live(self) -> set[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                return {self._exchange.channel, *await self._registry.live_nodes()}
        except (RedisError, TimeoutError) as error:
            logger.warning("which nodes there are is not known, as Redis is away: %s", error)
            return set()

    async def tell(self, message: dict[str, Any]) -> None:
        """All nodes. Raises _WriteAlone."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._exchange.broadcast(message)
        except (RedisError, TimeoutError) as error:
            raise _WriteAlone(f"Redis is away: {error}") from error

    async def ask(self, writer: str, drafts: Sequence[Draft], members_version: int) -> list[Message]:
        """Let that node store these drafts. Raises what HistoryStore.append does, and _WriteAlone."""
        match await self._outcome(writer, drafts, members_version):
            case _Stored(messages) if len(messages) == len(drafts):
                metrics.handed_over.inc(len(drafts))
                return messages
            case _MembersChanged(version):
                raise MembersChanged(version)
            case _Unavailable(detail, retry_after_ms):
                raise Unavailable(detail, retry_after_ms=retry_after_ms)
        self._silent[writer] = True
        raise _WriteAlone(f"{writer} declines")

    async def _outcome(self, writer: str, drafts: Sequence[Draft], members_version: int) -> _Outcome:
        if self._is_closed:
            return _Declined()
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        message = {
            "type": "history.append",
            "request": number,
            "drafts": msgspec.msgpack.encode(drafts),
            "members_version": members_version,
            "until": time.time() + ANSWER_S,
        }
        try:
            async with asyncio.timeout(ANSWER_S):
                if await self._exchange.send(writer, message):
                    return await asked
        except RedisError as error:
            raise _WriteAlone(f"Redis is away: {error}") from error
        except TimeoutError:
            logger.warning("%s was asked to write for this node and does not answer", writer)
        finally:
            del self._asked[number]
        return _Declined()

    async def _on_appended(self, message: dict[str, Any]) -> None:
        asked = self._asked.get(message["request"])
        if asked is not None and not asked.done():
            asked.set_result(_outcomes.decode(message["outcome"]))

    async def _on_append(self, message: dict[str, Any]) -> None:
        writing = asyncio.create_task(self._write_for(message))  # what comes next on the bus does not wait for it
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _write_for(self, message: dict[str, Any]) -> None:
        try:
            # Later than this, that node has written by itself: a message must not turn up again when it is long past.
            async with asyncio.timeout(min(ANSWER_S, message["until"] - time.time())):
                outcome = await self._write(message["drafts"], message["members_version"])
            answer = {"type": "history.appended", "request": message["request"]}
            await self._exchange.send(message["origin"], {**answer, "outcome": msgspec.msgpack.encode(outcome)})
        except (RedisError, TimeoutError) as error:
            logger.warning("a node that asked this one to write gets no answer: %r", error)

    async def _write(self, drafts: bytes, members_version: int) -> _Outcome:
        try:
            return _Stored(await self._append_here(_drafts.decode(drafts), members_version))
        except CannotWrite:
            return _Declined()
        except MembersChanged as change:
            return _MembersChanged(change.version)
        except Unavailable as error:
            return _Unavailable(error.detail, error.retry_after_ms)
        except Exception:  # the outermost frame of a task: whoever asked is to write by itself
            logger.exception("what another node asked this one to write was not written")
            return _Declined()

"""
One writer for a conversation that several nodes write at once.

Of conditional batches in the same partition at the same moment one wins; the others cost the store as much and were for
nothing. So the node that has lost to another one tells all, and for a while those who have something for this
conversation hand it to the node that all choose alike, whose group commit stores it together with everybody else's.

This only saves work. Nothing depends on the choice, on an answer, or on there being one writer: whoever gets no answer
writes by itself, and the store knows a message by its id, whichever node brings it and how often.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
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

CONTENDED_S = 60.0  # after a loss; then it is tried alone again
GATHER_S = 0.015
ANSWER_S = 2.0
PASSED_OVER_S = 10.0  # a node that has not answered; its lease ends before, if it is dead

Append = Callable[[Draft, int], Awaitable[Message]]


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """To drafts handed over: all of them are stored, or it says why that cannot be said."""

    messages: list[Message] = []
    members_changed: int | None = None
    unavailable: str | None = None

    def taken(self) -> list[Message]:
        if self.members_changed is not None:
            raise MembersChanged(self.members_changed)
        if self.unavailable is not None:
            raise Unavailable(self.unavailable, retry_after_ms=1_000)
        return self.messages


class _NoAnswer(Exception):
    """Whether the drafts are stored is unknown."""


class OneWriter:
    """`store`, where one node writes what several would. `append` is this process' own, for what others hand over."""

    def __init__(self, store: HistoryStore, append: Append) -> None:
        self._store = store
        self._append_here = append
        self._exchange: Exchange | None = None
        self._registry: Registry
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[_Answer]] = {}
        self._contended: TTLCache[UUID, bool] = TTLCache(10_000, CONTENDED_S, timer=time.monotonic)
        self._passed_over: TTLCache[str, bool] = TTLCache(1_000, PASSED_OVER_S, timer=time.monotonic)
        self._storing: set[asyncio.Task[None]] = set()

    def attach(self, exchange: Exchange, registry: Registry) -> None:
        """From now on other nodes may hand over to the one whose these are, and it to them."""
        self._exchange, self._registry = exchange, registry
        exchange.on("history.contended", self._on_contended)
        exchange.on("history.append", self._on_append)
        exchange.on("history.appended", self._on_appended)

    async def gather(self, conversation_id: UUID) -> None:
        """Before a commit of what several nodes write: alone, each message would be as dear as a batch of them."""
        if conversation_id in self._contended:
            await asyncio.sleep(GATHER_S)

    async def append(self, drafts: Sequence[Draft], members_version: int) -> list[Message]:
        """As HistoryStore.append."""
        conversation_id = drafts[0].conversation_id
        if self._exchange is None:
            return await self._store.append(drafts, members_version)
        if (stored := await self._elsewhere(self._exchange, drafts, members_version)) is not None:
            return stored
        try:
            return await self._store.append(drafts, members_version, give_way=True)
        except Contended:
            await self._let_all_know(self._exchange, conversation_id)
        if (stored := await self._elsewhere(self._exchange, drafts, members_version)) is not None:
            return stored
        return await self._store.append(drafts, members_version)

    async def _elsewhere(self, here: Exchange, drafts: Sequence[Draft], members_version: int) -> list[Message] | None:
        """The messages that another node has stored for this one; None when this one is to write."""
        if (conversation_id := drafts[0].conversation_id) not in self._contended:
            return None
        try:
            writer = await self._writer_of(conversation_id, here)
            if writer == here.channel:
                return None
            return await self._hand_over(writer, here, drafts, members_version)
        except (RedisError, _NoAnswer) as error:
            logger.info("no other node writes for this one: %r", error)
            return None

    async def _let_all_know(self, here: Exchange, conversation_id: UUID) -> None:
        """Also who has not lost: with one message at a time it is always faster than one who writes for all."""
        self._contended[conversation_id] = True
        try:
            await here.broadcast({"type": "history.contended", "conversation": conversation_id.bytes})
        except RedisError as error:
            logger.info("the others find out by themselves: %r", error)

    async def _on_contended(self, message: dict[str, Any]) -> None:
        self._contended[UUID(bytes=message["conversation"])] = True

    async def _writer_of(self, conversation_id: UUID, here: Exchange) -> str:
        """The channel of the node that all who know the same nodes choose (rendezvous hashing). Raises RedisError."""
        live = {here.channel, *await self._registry.live_nodes()} - set(self._passed_over)
        return max(live, key=lambda channel: hashlib.blake2b(channel.encode(), key=conversation_id.bytes).digest())

    # --- for this node -----------------------------------------------------------------------------------------------
    async def _hand_over(
        self, writer: str, here: Exchange, drafts: Sequence[Draft], members_version: int
    ) -> list[Message]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        packed = msgspec.msgpack.encode(drafts)
        message = {"type": "history.append", "request": number, "drafts": packed, "members_version": members_version}
        try:
            async with asyncio.timeout(ANSWER_S):
                if not await here.send(writer, message):
                    raise _NoAnswer(writer)
                answer = await self._waiting[number]
        except (RedisError, TimeoutError, _NoAnswer) as error:
            self._passed_over[writer] = True
            raise _NoAnswer(writer) from error
        finally:
            del self._waiting[number]
        metrics.handed_over.inc(len(drafts))
        return answer.taken()

    async def _on_appended(self, message: dict[str, Any]) -> None:
        waiting = self._waiting.get(message["request"])
        if waiting is not None and not waiting.done():
            waiting.set_result(msgspec.msgpack.decode(message["answer"], type=_Answer))

    # --- for others --------------------------------------------------------------------------------------------------
    async def _on_append(self, message: dict[str, Any]) -> None:
        storing = asyncio.create_task(self._store_for(message))  # what comes next on the bus does not wait for it
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)

    async def _store_for(self, message: dict[str, Any]) -> None:
        assert self._exchange is not None
        drafts = msgspec.msgpack.decode(message["drafts"], type=list[Draft])
        packed = msgspec.msgpack.encode(await self._answer_to(drafts, message["members_version"]))
        answer = {"type": "history.appended", "request": message["request"], "answer": packed}
        try:
            await self._exchange.send(message["origin"], answer)
        except RedisError as error:
            logger.warning("a node that waits for an answer gets none, as Redis is away: %s", error)

    async def _answer_to(self, drafts: Sequence[Draft], members_version: int) -> _Answer:
        appends = (self._append_here(draft, members_version) for draft in drafts)
        try:
            return _Answer(await asyncio.gather(*appends))
        except MembersChanged as change:
            return _Answer(members_changed=change.version)
        except Unavailable as error:
            return _Answer(unavailable=error.detail)

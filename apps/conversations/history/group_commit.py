"""
Group commit: one append under way per conversation, and what is said meanwhile goes together in the next one.

It lifts a busy conversation from one message per round trip to dozens, and keeps the order in which this process was
asked. When the store cannot keep up, it says so at once: first to those who read, then to those who write.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import msgspec

from apps import failpoints
from apps.conversations.errors import Unavailable
from apps.conversations.history.audit import AuditedStore, Part
from apps.conversations.history.one_writer import OneWriter
from apps.conversations.history.pressure import Pressure
from apps.conversations.messages import Draft, Message
from apps.presence import metrics

MAX_GROUP = 64
MAX_WAITING = 2_000  # per conversation


class _Request(NamedTuple):
    draft: Draft
    members_version: int
    stored: "asyncio.Future[Message]"
    for_another: bool = False

    @property
    def is_withdrawn(self) -> bool:
        """The node it was for has stopped waiting, and writes by itself. For whoever leaves here it is still stored."""
        return self.for_another and self.stored.cancelled()


class History:
    """A store, as services use it."""

    def __init__(self, store: AuditedStore) -> None:
        self._store = store
        self._writer = OneWriter(store)
        self._waiting: dict[UUID, deque[_Request]] = {}
        self._committers: set[asyncio.Task[None]] = set()
        self._appends, self._reads = Pressure(), Pressure()
        self.start, self.ping, self.attach = store.start, store.ping, self._writer.attach

    async def close(self) -> None:
        """What waits is still stored."""
        await self._writer.detach()
        await asyncio.gather(*self._committers)
        await self._store.close()

    async def append(self, draft: Draft, members_version: int) -> Message:
        """
        Number and store one draft; see HistoryStore.append.

        Raises MembersChanged: not stored. Raises Unavailable: unknown, and safe to repeat.
        """
        with _Asking(self._appends, "history"):
            return await self._queued(draft, members_version)

    async def append_for_another(self, drafts: Sequence[Draft], members_version: int) -> list[Message]:
        """Drafts of one conversation that another node has let in, and hands over. Raises as `append` does."""
        requests: list[asyncio.Future[Message]] = []
        try:
            for draft in drafts:
                requests.append(self._queued(draft, members_version, for_another=True))
            return await asyncio.gather(*requests)
        finally:
            for request in requests:
                request.cancel()  # those that are not stored: the other node does not wait for them

    async def before(self, conversation_id: UUID, seq: int | None, limit: int) -> list[Message]:
        with self._reading():
            return await self._store.before(conversation_id, seq, limit)

    async def after(self, conversation_id: UUID, seq: int, limit: int) -> list[Message]:
        with self._reading():
            return await self._store.after(conversation_id, seq, limit)

    async def latest(self, conversation_ids: Collection[UUID]) -> Mapping[UUID, Message]:
        with self._reading():
            return await self._store.latest(conversation_ids)

    @property
    def part_size(self) -> int:
        return self._store.part_size

    async def part(self, conversation_id: UUID, number: int) -> Part:
        with self._reading():
            return await self._store.part(conversation_id, number)

    async def advised_part(self, conversation_id: UUID) -> int:
        with self._reading():
            return await self._store.advised_part(conversation_id)

    def _reading(self) -> "_Asking":
        if self._appends.is_high(asyncio.get_running_loop().time()):
            metrics.overflows.labels("reads").inc()
            raise Unavailable("The history is busy with new messages; try again.", retry_after_ms=2_000)
        return _Asking(self._reads, "reads")

    def _queued(self, draft: Draft, members_version: int, *, for_another: bool = False) -> "asyncio.Future[Message]":
        request = _Request(draft, members_version, asyncio.get_running_loop().create_future(), for_another)
        waiting = self._waiting.get(draft.conversation_id)
        if waiting is None:
            self._waiting[draft.conversation_id] = deque([request])
            committer = asyncio.create_task(self._commit_all(draft.conversation_id))
            self._committers.add(committer)
            committer.add_done_callback(self._committers.discard)
        elif len(waiting) >= MAX_WAITING:
            metrics.overflows.labels("history").inc()
            raise Unavailable("Too many messages are waiting in this conversation.", retry_after_ms=1_000)
        else:
            waiting.append(request)
        return request.stored

    async def _commit_all(self, conversation_id: UUID) -> None:
        waiting = self._waiting[conversation_id]
        while waiting:
            await self._writer.let_more_come(conversation_id)
            version, alike = next(groupby(islice(waiting, MAX_GROUP), key=attrgetter("members_version")))
            group = [waiting.popleft() for _ in list(alike)]
            if wanted := [request for request in group if not request.is_withdrawn]:
                await self._commit(wanted, version)
        del self._waiting[conversation_id]

    async def _commit(self, group: list[_Request], members_version: int) -> None:
        # Two tries of the same message in one group are one message.
        tries = [(draft.sender_id, draft.client_msg_id) for draft, *_ in group]
        drafts: dict[tuple[UUID, UUID], Draft] = {}
        for which, (draft, *_) in zip(tries, group, strict=True):
            first = drafts.setdefault(which, draft)
            if first.after_seq is None and draft.after_seq is not None:  # a retry says where to look for the one before
                drafts[which] = msgspec.structs.replace(first, after_seq=draft.after_seq)
        try:
            failpoints.reached("storing")
            for_others = any(request.for_another for request in group)
            stored_now = await self._writer.append(list(drafts.values()), members_version, for_others=for_others)
            failpoints.reached("stored")
            messages = dict(zip(drafts, stored_now, strict=True))
        except Exception as error:  # noqa: BLE001 whatever it is, each of the waiting callers has to hear of it
            for _, _, stored, _ in group:
                if not stored.done():
                    stored.set_exception(error)
            return
        for which, (_, _, stored, _) in zip(tries, group, strict=True):
            if not stored.done():
                stored.set_result(messages[which])


class _Asking:
    """A request to the store, if that can be expected to answer it in time. Raises Unavailable."""

    def __init__(self, pressure: Pressure, queue: str) -> None:
        self._pressure, self._queue = pressure, queue
        self._clock = asyncio.get_running_loop().time
        self._begun = self._clock()

    def __enter__(self) -> None:
        if not self._pressure.lets_in(self._begun):
            metrics.overflows.labels(self._queue).inc()
            raise Unavailable("The history cannot keep up; try again.", retry_after_ms=1_000)
        self._pressure.begin(self._begun)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        answered = not isinstance(error, (Unavailable, asyncio.CancelledError))
        self._pressure.end(self._begun, self._clock(), answered=answered)

"""
Group commit: one append under way per conversation, and what is said meanwhile goes together in the next one.

It lifts a busy conversation from one message per round trip to dozens, and keeps the order in which this process was
asked.
"""

import asyncio
from collections import deque
from itertools import groupby, islice
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import msgspec

from apps import failpoints
from apps.conversations.errors import Unavailable
from apps.conversations.history.base import HistoryStore
from apps.conversations.messages import Draft, Message
from apps.presence import metrics

MAX_GROUP = 64
MAX_WAITING = 2_000  # per conversation


class _Request(NamedTuple):
    draft: Draft
    members_version: int
    stored: "asyncio.Future[Message]"


class History:
    """A store, as services use it."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._waiting: dict[UUID, deque[_Request]] = {}
        self._committers: set[asyncio.Task[None]] = set()
        self.start, self.ping = store.start, store.ping
        self.before, self.after, self.latest = store.before, store.after, store.latest

    async def close(self) -> None:
        """What waits is still stored."""
        await asyncio.gather(*self._committers)
        await self._store.close()

    async def append(self, draft: Draft, members_version: int) -> Message:
        """
        Number and store one draft; see HistoryStore.append.

        Raises MembersChanged: not stored. Raises Unavailable: unknown, and safe to repeat.
        """
        request = _Request(draft, members_version, asyncio.get_running_loop().create_future())
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
        return await request.stored

    async def _commit_all(self, conversation_id: UUID) -> None:
        waiting = self._waiting[conversation_id]
        while waiting:
            version, alike = next(groupby(islice(waiting, MAX_GROUP), key=attrgetter("members_version")))
            await self._commit([waiting.popleft() for _ in list(alike)], version)
        del self._waiting[conversation_id]

    async def _commit(self, group: list[_Request], members_version: int) -> None:
        # Two tries of the same message in one group are one message.
        ids = [draft.message_id for draft, _, _ in group]
        drafts: dict[UUID, Draft] = {}
        for message_id, (draft, _, _) in zip(ids, group, strict=True):
            first = drafts.setdefault(message_id, draft)
            if first.after_seq is None:  # a retry says where to look for the try before
                drafts[message_id] = msgspec.structs.replace(first, after_seq=draft.after_seq)
        try:
            failpoints.reached("storing")
            stored_now = await self._store.append(list(drafts.values()), members_version)
            failpoints.reached("stored")
        except Exception as error:  # noqa: BLE001 whatever it is, each of the waiting callers has to hear of it
            for _, _, stored in group:
                if not stored.done():
                    stored.set_exception(error)
            return
        messages = dict(zip(drafts, stored_now, strict=True))
        for message_id, (_, _, stored) in zip(ids, group, strict=True):
            if not stored.done():
                stored.set_result(messages[message_id])

"""
Which conversations had a message lately, in Redis: where to look for somebody who was missed.

A person whose connection is dead, and whose node has not noticed yet, counts as present, and is told by no push. A
minute later the workers look at these conversations once more. Only a hint: what Redis loses is not looked at.
"""

import time
from collections.abc import Collection
from uuid import UUID

from redis.exceptions import RedisError

from apps.presence.pipe import Pipe

KEY = "recent-conversations"  # sorted set: id -> when it had its newest message, seconds, give or take NOTED_EVERY_S
NOTED_EVERY_S = 5
MAX_NOTED = 10_000


class Recent:
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._noted: dict[UUID, float] = {}

    def note(self, conversation_id: UUID) -> None:
        """It has a message now. Does not wait for Redis."""
        now = time.time()
        if now - self._noted.get(conversation_id, 0) < NOTED_EVERY_S:
            return
        if len(self._noted) >= MAX_NOTED:
            self._noted.clear()
        try:
            self._pipe.enqueue("ZADD", KEY, now, conversation_id.bytes)
        except RedisError:
            return  # too much is waiting for Redis
        self._noted[conversation_id] = now

    def lately(self, moment_s: float) -> list[UUID]:
        """Those that had a message through this process since then."""
        return [conversation_id for conversation_id, noted_s in self._noted.items() if noted_s >= moment_s]

    async def until(self, moment_s: float, limit: int) -> list[UUID]:
        """Those whose newest message is as old as that, the oldest first. Raises RedisError."""
        found = await self._pipe.execute("ZRANGEBYSCORE", KEY, "-inf", moment_s, "LIMIT", 0, limit)
        return [UUID(bytes=conversation_id) for conversation_id in found]

    async def forget(self, conversation_ids: Collection[UUID], moment_s: float) -> None:
        """Of these, those that had nothing since. Raises RedisError."""
        old = await self._pipe.execute("ZRANGEBYSCORE", KEY, "-inf", moment_s)
        if gone := {conversation_id.bytes for conversation_id in conversation_ids} & set(old):
            await self._pipe.execute("ZREM", KEY, *gone)

"""
How often one person, or one address, may ask for something within 10 s.

Each node counts by itself, and settles with the others through Redis for every quarter of the limit that it has let
through: whoever stays below a quarter costs Redis nothing, and a message waits for it once in so many. In return, what
is not settled yet goes unseen: on N nodes together, somebody gets through at most (N + 5) / 4 of their limit. While
Redis is away, each node holds the limit alone.
"""

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from django.conf import settings
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from apps.accounts.aio import per_loop
from apps.conversations.errors import RateLimited
from apps.presence import metrics

logger = logging.getLogger(__name__)

WINDOW_S = 10
PARTS = 4
MAX_COUNTS = 50_000
CONNECTIONS = 8
TIMEOUT_S = 0.25
AWAY_S = 5.0  # how long Redis is not asked again after it did not answer


class Limit(NamedTuple):
    name: str
    amount: int  # 0: none

    @property
    def part(self) -> int:
        return max(1, self.amount // PARTS)


def sends() -> Limit:
    return Limit("sends", settings.CHAT_SENDS_PER_10S)


def writes() -> Limit:
    return Limit("writes", settings.CHAT_SENDS_PER_10S)


def connects() -> Limit:
    return Limit("connects", settings.CHAT_CONNECTS_PER_10S)


async def take(limit: Limit, key: str) -> None:
    """Count one for `key`. Raises RateLimited, which says when the next one may come."""
    if limit.amount and (wait_s := await _throttle().take(limit, key)):
        metrics.limited.labels(limit.name).inc()
        raise RateLimited("You are asking too fast.", retry_after_ms=max(100, int(wait_s * 1_000)))


def start() -> None:
    """Making its storage imports for 200 ms: while nobody waits."""
    _throttle()


async def close() -> None:
    await _throttle().close()


@dataclass(slots=True)
class Count:
    """How often in this window, and in the one before, which counts by the share of it that is less than 10 s ago."""

    began: float
    previous: int = 0
    current: int = 0
    unsettled: int = 0
    refused_until: float = 0.0

    def take(self, amount: int, now: float) -> float:
        """Count one, or return how many seconds to wait for it."""
        self._move_on(now)
        if now < self.refused_until:
            return self.refused_until - now
        gone = (now - self.began) / WINDOW_S
        if int(self.previous * (1 - gone)) + self.current < amount:
            self.current += 1
            self.unsettled += 1
            return 0.0
        enough = 1 - (amount - self.current) / self.previous if self.current < amount else 1.0
        return max(0.001, (enough - gone) * WINDOW_S)

    def _move_on(self, now: float) -> None:
        windows = int((now - self.began) / WINDOW_S)
        if windows == 1:
            self.began, self.previous, self.current = self.began + WINDOW_S, self.current, 0
        elif windows > 1:
            self.began, self.previous, self.current, self.unsettled = now, 0, 0, 0


class Throttle:
    """All counts of this process."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], Count] = OrderedDict()
        self._pool = BlockingConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
        )
        storage = RedisStorage(
            f"async+{settings.REDIS_URL}", implementation="redispy", key_prefix="limit", connection_pool=self._pool
        )
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._ask_again_at = 0.0

    async def take(self, limit: Limit, key: str) -> float:
        now = time.monotonic()
        count = self._count(limit.name, key, now)
        wait_s = count.take(limit.amount, now)
        if not wait_s and count.unsettled >= limit.part:
            count.unsettled = 0
            if not await self._settle(limit, key):
                wait_s = WINDOW_S / PARTS
                count.refused_until = now + wait_s
        return wait_s

    async def close(self) -> None:
        await self._pool.disconnect()

    def _count(self, name: str, key: str, now: float) -> Count:
        count = self._counts.get((name, key))
        if count is None:
            count = self._counts[name, key] = Count(now)
            if len(self._counts) > MAX_COUNTS:
                _, oldest = self._counts.popitem(last=False)
                if now - oldest.began < WINDOW_S:
                    metrics.overflows.labels("throttle").inc()
        self._counts.move_to_end((name, key))
        return count

    async def _settle(self, limit: Limit, key: str) -> bool:
        """Add a part to what all nodes let through; False when it is too much already."""
        if time.monotonic() < self._ask_again_at:
            return True
        # One part above the limit: a part may hold what was counted up to 10 s before it is settled.
        shared = RateLimitItemPerSecond(limit.amount + limit.part, WINDOW_S, namespace=limit.name)
        try:
            return await self._shared.hit(shared, key, cost=limit.part)
        except (RedisError, OSError) as error:
            self._ask_again_at = time.monotonic() + AWAY_S
            logger.warning("each node limits by itself, as Redis is away: %s", error)
            return True


_throttle = per_loop(Throttle)

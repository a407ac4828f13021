"""
Redis commands of one event loop, sent together.

A command alone costs about five times what it costs inside a pipeline, so one pipeline is under way at a time and what
is asked meanwhile goes in the next one: the busier the node, the fuller its pipelines.
"""

import asyncio
from collections import deque
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from apps.presence import metrics

MAX_WAITING = 20_000
MAX_PER_FLIGHT = 500
TIMEOUT_S = 2.0


class Overloaded(RedisError):
    """More commands are waiting than Redis can be expected to answer in time."""


class Pipe:
    def __init__(self, url: str) -> None:
        # No silent retries: a PUBLISH that may have gone out must not go out again under the same frame number.
        self._redis = redis.asyncio.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self._waiting: deque[tuple[tuple[Any, ...], asyncio.Future[Any]]] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def execute(self, *command: Any) -> Any:
        """The reply of one command. Raises RedisError; a command that timed out may have been carried out."""
        return await self.enqueue(*command)

    def enqueue(self, *command: Any) -> "asyncio.Future[Any]":
        """Queue a command now, in order, and have its reply later."""
        if len(self._waiting) >= MAX_WAITING:
            metrics.overflows.labels("redis").inc()
            raise Overloaded(f"{MAX_WAITING} commands are waiting for Redis")
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly())
        return reply

    async def close(self) -> None:
        if self._flight is not None:
            self._flight.cancel()
        for _, reply in self._waiting:
            reply.cancel()
        self._waiting.clear()
        await self._redis.aclose()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def _fly(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_PER_FLIGHT))]
                await self._send(batch)
        finally:
            self._flight = None

    async def _send(self, batch: list[tuple[tuple[Any, ...], "asyncio.Future[Any]"]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for command, _ in batch:
            pipeline.execute_command(*command)
        replies: list[Any] = [RedisError("closed")] * len(batch)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            replies = [error if isinstance(error, RedisError) else RedisError(str(error))] * len(batch)
        finally:
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                    future.exception()  # a caller that went away leaves no "never retrieved" warning
                else:
                    future.set_result(reply)

"""
Redis commands of one event loop, sent together.

A command alone costs several times what it costs among others, so one group is under way at a time and what is asked
meanwhile goes in the next one: the busier the node, the larger its groups.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from apps.presence import metrics

MAX_WAITING = 20_000
MAX_PER_FLIGHT = 500
TIMEOUT_S = 2.0

Command = tuple[Any, ...]


class Wire(Protocol):
    """A connection to Redis."""

    async def carry_out(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to each, which may be a ResponseError. Raises RedisError: any of them may have been carried out."""
        ...

    async def close(self) -> None: ...


class RedisWire:
    """
    Made when it is needed, and again after anything went wrong.

    Without redis-py's pipeline, which costs several times as much; and without its silent retries: a PUBLISH that may
    have gone out must not go out again under the same frame number.
    """

    def __init__(self, url: str) -> None:
        # One deadline for all replies together, instead of a timer for each.
        self._pool = ConnectionPool.from_url(
            url, socket_timeout=None, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self._connection: AbstractConnection = self._pool.make_connection()

    async def carry_out(self, commands: Sequence[Command]) -> list[Any]:
        done = False
        try:
            async with asyncio.timeout(TIMEOUT_S):
                replies = await self._exchange(commands)
            done = True
            return replies
        except TimeoutError as error:
            raise RedisTimeout("Redis did not answer in time") from error
        except OSError as error:
            raise RedisError(str(error)) from error
        finally:
            if not done:  # replies that still come would be taken for those to other commands
                await self._connection.disconnect(nowait=True)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        await connection.connect()  # does nothing when it is
        await connection.send_packed_command([pack_command(command) for command in commands], check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies

    async def close(self) -> None:
        await self._connection.disconnect()


class Overloaded(RedisError):
    """More commands are waiting than Redis can be expected to answer in time."""


class Pipe:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        self._flight: asyncio.Task[None] | None = None
        self.departures = 0  # groups sent so far

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
        await self._wire.close()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def _fly(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_PER_FLIGHT))]
                self.departures += 1
                await self._send(batch)
        finally:
            self._flight = None

    async def _send(self, batch: list[tuple[Command, "asyncio.Future[Any]"]]) -> None:
        replies: list[Any] = [RedisError("closed")] * len(batch)
        try:
            replies = await self._wire.carry_out([command for command, _ in batch])
        except RedisError as error:
            replies = [error] * len(batch)
        finally:
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                    future.exception()  # a caller that went away leaves no "never retrieved" warning
                else:
                    future.set_result(reply)

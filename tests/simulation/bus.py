"""A node's end of the bus in a simulation: what presence/bus.py does, on a simulated Redis."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from apps.presence.bus import MAX_WAITING
from apps.presence.pipe import Pipe
from tests.simulation.redis import Redis, Subscription, Wire
from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.services import Service


class Layer:
    def __init__(self, scheduler: Scheduler, process: Process, redis: Callable[[], Redis], service: Service) -> None:
        self._scheduler, self._process, self._redis, self._service = scheduler, process, redis, service
        self._pipe: Pipe | None = None
        self._queue: asyncio.Queue[Any] | None = None
        self._names: list[str] = []
        self._reconnected: Callable[[], None] = lambda: None
        self.subscription: Subscription | None = None

    def pipe(self) -> Pipe:
        self._pipe = self._pipe or Pipe(Wire(lambda: self._service, self._redis))
        return self._pipe

    async def send(self, channel: str, message: dict[str, Any]) -> int:
        return int(await self.publish(channel, message))

    def publish(self, channel: str, message: dict[str, Any]) -> "asyncio.Future[int]":
        return self.pipe().enqueue("PUBLISH", channel, message)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self.pipe().execute("PUBLISH", group, message)

    async def subscribe(self, channel: str, group: str) -> None:
        self._queue = asyncio.Queue(MAX_WAITING)
        self._names = [channel, group]
        await self._service.ask(self._connect)

    async def receive(self, channel: str) -> Any:
        assert self._queue is not None
        return await self._queue.get()

    def on_reconnect(self, channel: str, callback: Callable[[], None]) -> None:
        self._reconnected = callback

    # --- the connection ----------------------------------------------------------------------------------------------
    def cut(self, *, again_in_s: float) -> None:
        """The connection breaks; what was on its way is gone. The client connects again by itself."""
        if self.subscription is not None:
            self.drop()
            self._scheduler.at(self._scheduler.now + again_in_s, self._process, self._again)

    def drop(self) -> None:
        if self.subscription is None:
            return
        self.subscription.is_cut = True
        for subscribers in self._redis().subscribers.values():
            if self.subscription in subscribers:
                subscribers.remove(self.subscription)
        self.subscription = None

    def _connect(self) -> None:
        if self._process.is_dead:
            return
        self.drop()
        self.subscription = Subscription(self._scheduler, self._process, self._take)
        for name in self._names:
            self._redis().subscribers.setdefault(name, []).append(self.subscription)

    def _take(self, message: Any) -> None:
        assert self._queue is not None
        self._queue.put_nowait(message)

    def _again(self) -> None:
        self._process.create_task(self._connect_again())

    async def _connect_again(self) -> None:
        while True:
            try:
                await self._service.ask(self._connect)
            except RedisError:
                await asyncio.sleep(0.1)
            else:
                return self._reconnected()

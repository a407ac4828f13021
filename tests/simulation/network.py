"""A WebSocket between a simulated client and a node: ordered both ways, late at times, lost when either end dies."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from tests.simulation.scheduler import Process, Scheduler


class ClientSide(Protocol):
    process: Process

    def received(self, link: "Link", text: str) -> None: ...
    def closed(self, link: "Link", code: int) -> None: ...


class Direction:
    """Delivers in order, each after a random time."""

    def __init__(self, scheduler: Scheduler, to: Process, late_s: float) -> None:
        self._scheduler, self._to, self._late_s = scheduler, to, late_s
        self._last = 0.0

    def deliver(self, callback: Callable[..., None], *args: Any) -> None:
        delay = 0.001 + (0.004 + self._late_s) * self._scheduler.random.random()
        self._last = max(self._last, self._scheduler.now + delay)
        self._scheduler.at(self._last, self._to, callback, *args)


class Link:
    def __init__(self, scheduler: Scheduler, client: ClientSide, server: Process, user: Any) -> None:
        late_s = scheduler.random.choice((0.0, 0.0, 0.05, 0.3))  # some are far away
        self.scope = {"type": "websocket", "path": "/ws/", "headers": [], "client": ("127.0.0.1", 1), "user": user}
        self._client, self._server = client, server
        self._up, self._down = (Direction(scheduler, to, late_s) for to in (server, client.process))
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._is_open = True

    # --- the client's side -------------------------------------------------------------------------------------------
    def open(self, serve: Callable[["Link"], Any]) -> None:
        self._up.deliver(self._accept, serve)

    def say(self, text: str) -> None:
        if self._is_open:
            self._up.deliver(self._put, {"type": "websocket.receive", "text": text})

    def hang_up(self) -> None:
        if self._is_open:
            self._is_open = False
            self._up.deliver(self._put, {"type": "websocket.disconnect", "code": 1006})

    # --- the server's side -------------------------------------------------------------------------------------------
    async def receive(self) -> dict[str, Any]:
        return await self._inbox.get()

    async def send(self, message: dict[str, Any]) -> None:
        if not self._is_open:
            return
        if message["type"] == "websocket.send":
            self._down.deliver(self._arrive, message["text"])
        elif message["type"] == "websocket.close":
            self._end(message.get("code", 1000))
            self._put({"type": "websocket.disconnect", "code": 1000})

    def server_died(self) -> None:
        """Its kernel sends what was written, and closes."""
        self._end(1006)

    def _end(self, code: int) -> None:
        if self._is_open:
            self._is_open = False
            self._down.deliver(self._client.closed, self, code)

    # --- arriving ----------------------------------------------------------------------------------------------------
    def _accept(self, serve: Callable[["Link"], Any]) -> None:
        self._put({"type": "websocket.connect"})
        self._server.create_task(serve(self))

    def _put(self, message: dict[str, Any]) -> None:
        self._inbox.put_nowait(message)

    def _arrive(self, text: str) -> None:
        self._client.received(self, text)

"""
What nodes send each other, and how the loss of any of it is noticed.

The bus may lose messages without a trace. So each one carries its origin and a number, counted for each receiver; every
second a node sends a numbered beat to itself, and to whom it has sent something. A hole in the numbers, a subscription
that was cut, or no beat of its own for 3 s: this node has missed something, and says so (`on_loss`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from itertools import count
from typing import Any

from redis.exceptions import RedisError

from apps.presence import metrics
from apps.presence.bus import NODES_GROUP, ChannelLayer
from apps.presence.status import FrameCounters, GapDetector

logger = logging.getLogger(__name__)

SILENT_BUS_S = 3.0
TURN = 64  # messages

Handler = Callable[[dict[str, Any]], Awaitable[None]]


class Exchange:
    """
    One node's end of the bus. `channel` is where it listens.

    `on_loss` is called with the reason whenever something may not have arrived here.
    """

    def __init__(self, channel: str, layer: ChannelLayer, on_loss: Callable[[str], None]) -> None:
        self.channel = channel
        self.hears_itself = False  # what it publishes to itself comes back: the bus works in both directions
        self._layer = layer
        self._on_loss = on_loss
        self._on_interruption: Callable[[], None] = lambda: None
        self._counters = FrameCounters()
        self._gaps = GapDetector()
        self._last_own_beat = time.monotonic()
        self._handlers: dict[str, Handler] = {"beat": self._on_beat}

    def on(self, kind: str, handler: Handler) -> None:
        """Let `handler` take the messages of type `kind`."""
        self._handlers[kind] = handler

    def on_interruption(self, callback: Callable[[], None]) -> None:
        """Called before `on_loss` when this node was cut off from Redis: the one it has now may know less."""
        self._on_interruption = callback

    # --- out ---------------------------------------------------------------------------------------------------------
    def send(self, channel: str, message: dict[str, Any]) -> "asyncio.Future[int]":
        """Numbered and queued in one step, so that numbers go out in order; the number of receivers comes later."""
        number = self._counters.next(channel)
        return self._layer.publish(channel, {**message, "origin": self.channel, "number": number})

    async def broadcast(self, message: dict[str, Any]) -> None:
        """To every node, this one included, at most once each. Raises RedisError."""
        await self._layer.group_send(NODES_GROUP, message)

    async def beat(self) -> None:
        """A numbered beat to itself, and one to each node that was sent something: a lost tail shows at once."""
        due = self._counters.take_unconfirmed()
        try:
            await self._beat_to(due | {self.channel})
        except RedisError:
            self._counters.owe(due)
            raise
        metrics.bus_queue.set(self._layer.pipe().waiting)
        if time.monotonic() - self._last_own_beat > SILENT_BUS_S:
            self._last_own_beat = time.monotonic()
            self.hears_itself = False
            self._on_interruption()
            self._on_loss("silence")

    async def _beat_to(self, channels: Collection[str]) -> None:
        """At once: one after the other, beats to many nodes take longer than the silence that counts as a loss."""
        sent = {channel: self._send_beat(channel) for channel in channels}
        for channel, receivers in sent.items():
            if not await receivers and channel != self.channel:
                self._counters.forget(channel)

    def _send_beat(self, channel: str) -> "asyncio.Future[int]":
        beat = {"type": "beat", "origin": self.channel, "number": self._counters.next_beat(channel)}
        return self._layer.publish(channel, beat)

    def forget(self, channel: str) -> None:
        """That node is dead, and its name will not come back: a boot id is part of it."""
        self._gaps.forget(channel)
        self._counters.forget(channel)

    # --- in ----------------------------------------------------------------------------------------------------------
    async def receive_forever(self) -> None:
        self._layer.on_reconnect(self.channel, self._on_reconnect)
        await self._subscribe()
        for number in count():
            if number % TURN == 0:
                await asyncio.sleep(0)  # a full queue gives nobody else a turn: not those who write to the sockets
            message = await self._layer.receive(self.channel)
            if "origin" in message and self._gaps.missed(message["origin"], message["number"]):
                self._on_loss("gap")
            await self._handle(message)

    async def _subscribe(self) -> None:
        while True:
            try:
                return await self._layer.subscribe(self.channel, NODES_GROUP)
            except RedisError as error:
                logger.warning("cannot subscribe, as Redis is away: %s", error)
                await asyncio.sleep(0.5)

    async def _handle(self, message: dict[str, Any]) -> None:
        handler = self._handlers.get(message["type"])
        if handler is None:
            logger.warning("unknown message on the bus: %s", message["type"])
            return
        try:
            await handler(message)
        except Exception:  # the router must outlive any single message
            logger.exception("a message from the bus was not handled", extra={"kind": message["type"]})
            self._on_loss("error")

    async def _on_beat(self, message: dict[str, Any]) -> None:
        if message["origin"] == self.channel:
            self._last_own_beat = time.monotonic()
            self.hears_itself = True

    def _on_reconnect(self) -> None:
        metrics.reconnects.inc()
        self._on_interruption()
        self._on_loss("reconnect")

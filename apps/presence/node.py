"""
One chat server process among many: it delivers to the sockets it holds and to the nodes that hold the others.

Frames between nodes go over the bus as one message per node, however many of its users they are for, with the frame
already encoded. A node that may have missed something (exchange.py) tells its sockets to `resync`: nothing else repairs
loss.
"""

import asyncio
import logging
import os
import random
import socket as network
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
from channels.layers import get_channel_layer
from django.conf import settings
from redis.exceptions import RedisError

from apps import failpoints
from apps.accounts import identity
from apps.accounts.aio import in_db, per_loop
from apps.presence import metrics
from apps.presence.attendance import Attendance
from apps.presence.bus import ChannelLayer
from apps.presence.exchange import Exchange
from apps.presence.frames import Resync
from apps.presence.hub import Hub, Socket
from apps.presence.registry import NodeInfo, Registry
from apps.presence.status import LEASE_INTERVAL_S, REFRESH_INTERVAL_S, is_silent

logger = logging.getLogger(__name__)

RECHECK_SESSIONS_S = 30
RESYNC_FRAME = msgspec.json.encode(Resync(spread_ms=2_000))
BUS_DEADLINE_S = 3.0
ANNOUNCE_INTERVAL_S = 0.2
HAND_OVER_S = 2.0
MAX_TASKS = 1_000


class BusAway(Exception):
    """Redis did not take a frame in time: some nodes may not have been told."""


class Node:
    def __init__(self, name: str, layer: ChannelLayer) -> None:
        self.name = name
        self.boot = uuid4().hex[:12]
        self.channel = f"node.{name}.{self.boot}"
        self.hub = Hub(settings.PUSH_AWAY_AFTER)
        self.draining = False
        self.registry = Registry(layer.pipe())
        self.exchange = Exchange(self.channel, layer, self.resync)
        self.attendance = Attendance(self.hub, self.registry, self.exchange, self.resync)
        self._started_at = datetime.now(UTC)
        self._tasks: set[asyncio.Future[None]] = set()
        self._handing_over: set[asyncio.Future[None]] = set()  # those of them that owe somebody a push
        self._on_resync: Callable[[], None] = lambda: None
        self._on_unreached: Callable[[bytes, set[UUID]], Awaitable[None]] | None = None
        self.exchange.on("frame", self._on_frame)
        self.exchange.on("presence", self._on_presence)
        self.exchange.on("sessions.ended", self._on_sessions_ended)

    def on_unreached(self, handler: Callable[[bytes, set[UUID]], Awaitable[None]]) -> None:
        """Called with a frame and those of its users who are away from here, or have just closed their last socket."""
        self._on_unreached = handler

    def on_resync(self, callback: Callable[[], None]) -> None:
        """Called when this node may have missed something: what it remembers of others may be out of date."""
        self._on_resync = callback

    # --- life --------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        self._spawn(self.exchange.receive_forever())
        for work, interval in (
            (self._renew_lease, LEASE_INTERVAL_S),
            (self.exchange.beat, LEASE_INTERVAL_S),
            (self.attendance.refresh, REFRESH_INTERVAL_S),
            (self.attendance.bury_dead_node, 2),
            (self.attendance.announce, ANNOUNCE_INTERVAL_S),
            (self.attendance.tell_away, 5),
            (self._close_silent, 5),
            (self._recheck_sessions, RECHECK_SESSIONS_S),
        ):
            self._spawn(_every(interval, work))

    async def stop(self) -> None:
        """Leave the registry and stop. The sockets are closed by the server that holds them."""
        self.draining = True
        if self._handing_over:  # others have acked what these are for
            await asyncio.wait(self._handing_over, timeout=HAND_OVER_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.attendance.leave()

    # --- sockets -----------------------------------------------------------------------------------------------------
    async def add(self, socket: Socket) -> None:
        """Take a socket in. When this returns, messages stored from now on reach it (or a resync does)."""
        self.hub.add(socket)
        metrics.connections.inc()
        await self.attendance.arrive(str(socket.identity.person.id))

    async def remove(self, socket: Socket) -> None:
        was_last = self.hub.remove(socket)
        metrics.connections.dec()
        await self.watch(socket, frozenset())
        if was_last:
            await self.attendance.depart([str(socket.identity.person.id)])

    def used(self, socket: Socket) -> None:
        """Its person is doing something with it."""
        socket.last_active = time.monotonic()
        if self.attendance.is_away(user := str(socket.identity.person.id)):
            self._spawn(self.attendance.back(user))

    async def watch(self, socket: Socket, users: frozenset[str]) -> None:
        """Let a socket hear of these users' status from now on, and of no others."""
        await self.attendance.watch(*self.hub.watch(socket, users))

    # --- delivery ----------------------------------------------------------------------------------------------------
    async def deliver(self, user_ids: Collection[UUID], frame: bytes) -> set[UUID]:
        """
        Hand an encoded frame to every socket of these users, on every node; returns the users who are nowhere, or on
        this node alone and away from it (another node notices itself who is away from it: `on_unreached`).

        When it returns, every node that holds one of them has been handed the frame or finds out by itself that it
        missed something. Raises BusAway when that cannot be said.
        """
        reached = self.hub.send(user_ids, frame)
        deadline = time.monotonic() + BUS_DEADLINE_S
        pause = 0.05
        while True:
            try:
                return await self._deliver_to_others(user_ids, frame, reached)
            except RedisError as error:
                if time.monotonic() + pause > deadline:
                    raise BusAway(str(error)) from error
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, 0.8)

    async def _deliver_to_others(self, user_ids: Collection[UUID], frame: bytes, reached: set[UUID]) -> set[UUID]:
        holders = await self.registry.holders(user_ids)
        failpoints.reached("told-here")
        sent = [
            (ids, self.exchange.send(channel, _frame_for(ids, frame)))
            for channel, ids in holders.items()
            if channel != self.channel
        ]
        nowhere = set(user_ids) - reached
        for ids, receivers in sent:
            if await receivers:
                nowhere.difference_update(ids)
        return nowhere

    async def deliver_everywhere(self, message: dict[str, Any]) -> None:
        """
        Hand a message to every live node and let each find its own users: for conversations too large to look up.

        Raises BusAway.
        """
        try:
            sent = [self.exchange.send(channel, message) for channel in await self.registry.live_nodes()]
            await asyncio.gather(*sent)
        except RedisError as error:
            raise BusAway(str(error)) from error

    async def nodes_of(self, user_ids: Collection[UUID]) -> dict[UUID, list[str]]:
        """The channels of the nodes that hold each user, empty for one who is offline; a hint, as good as Redis is."""
        try:
            return await self.registry.nodes_of(user_ids)
        except RedisError as error:
            logger.warning("presence is what this node knows by itself, as Redis is away: %s", error)
            here = self.hub.user_ids()
            return {user_id: [self.channel] if user_id in here else [] for user_id in user_ids}

    # --- what other nodes send ---------------------------------------------------------------------------------------
    async def _on_frame(self, message: dict[str, Any]) -> None:
        to = message["to"]
        user_ids = [UUID(bytes=to[start : start + 16]) for start in range(0, len(to), 16)]
        unreached = set(user_ids) - self.hub.send(user_ids, message["frame"])
        if not unreached or self._on_unreached is None:
            return
        if len(self._tasks) < MAX_TASKS:
            task = self._spawn(self._on_unreached(message["frame"], unreached))
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)
        else:
            metrics.overflows.labels("unreached").inc()
            await self._on_unreached(message["frame"], unreached)  # what comes next waits in the bus queue

    async def _on_presence(self, message: dict[str, Any]) -> None:
        for user, frame in message["changes"]:
            self.hub.tell_watchers(user, frame)

    async def _on_sessions_ended(self, message: dict[str, Any]) -> None:
        sessions, user_id = set(message["sessions"]), message["user_id"]
        for socket in self.hub.sockets():
            if socket.identity.session_id in sessions or str(socket.identity.person.id) == user_id:
                await socket.close(message["code"])

    def resync(self, reason: str) -> None:
        """Tell every local socket to catch up from the history: something may not have reached it."""
        metrics.resyncs.labels(reason).inc()
        logger.info("resync", extra={"reason": reason, "connections": len(self.hub)})
        self._on_resync()
        for socket in self.hub.sockets():
            socket.push(RESYNC_FRAME)

    # --- what a node does all the time -------------------------------------------------------------------------------
    async def _renew_lease(self) -> None:
        info = NodeInfo(
            name=self.name,
            boot=self.boot,
            host=network.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at.isoformat(timespec="seconds"),
            connections=len(self.hub),
            users=len(self.hub.users()),
        )
        await self.attendance.renew_lease(info)

    async def _close_silent(self) -> None:
        now = time.monotonic()
        for socket in self.hub.sockets():
            if is_silent(socket.last_heard, now):
                await socket.close(4408)

    async def _recheck_sessions(self) -> None:
        """The announcement that a session has ended may get lost; this is what holds."""
        sockets = self.hub.sockets()
        if not sockets:
            return
        ended = await in_db(identity.ended, [socket.identity for socket in sockets])
        for socket in sockets:
            if socket.identity.session_id in ended:
                await socket.close(4401)

    def _spawn(self, work: Awaitable[None]) -> "asyncio.Future[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _every(interval: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        started = time.monotonic()
        try:
            await work()
        except RedisError as error:
            logger.warning("Redis is away: %s", error, extra={"work": work.__name__})
        except Exception:  # the outermost loop of a node's duties
            logger.exception("a duty of the node failed", extra={"work": work.__name__})
        await asyncio.sleep(max(0.0, interval - (time.monotonic() - started)))


def _frame_for(user_ids: Iterable[UUID], frame: bytes) -> dict[str, Any]:
    return {"type": "frame", "to": b"".join(user_id.bytes for user_id in user_ids), "frame": frame}


def name_of(channel: str) -> str:
    """The name of the node that listens on this channel."""
    return channel.removeprefix("node.").rpartition(".")[0]


@per_loop
def current() -> Node:
    """The node of this process. Outside a chat server (a command, a task) it holds no sockets, but still delivers."""
    return Node(settings.NODE_ID, get_channel_layer())

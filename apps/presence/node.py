"""
One chat server process among many: it delivers to the sockets it holds and to the nodes that hold the others.

Frames between nodes go over the bus as one message per node, however many of its users they are for, with the frame
already encoded. The bus may lose them, so each carries its origin and a number; a node that sees a hole, whose
subscription was cut, or whose lease Redis has forgotten, tells its sockets to `resync`. Nothing else repairs loss.
"""

import asyncio
import logging
import os
import random
import socket as network
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine
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
from apps.presence import last_seen, metrics
from apps.presence.bus import NODES_GROUP, ChannelLayer
from apps.presence.frames import Presence, Resync
from apps.presence.hub import Hub, Socket
from apps.presence.registry import NodeInfo, Registry
from apps.presence.status import (
    LEASE_INTERVAL_S,
    REFRESH_INTERVAL_S,
    Announcements,
    FrameCounters,
    GapDetector,
    is_silent,
)

logger = logging.getLogger(__name__)

RECHECK_SESSIONS_S = 30
RESYNC_FRAME = msgspec.json.encode(Resync(spread_ms=2_000))
SILENT_BUS_S = 3.0
BUS_DEADLINE_S = 3.0
ANNOUNCE_INTERVAL_S = 0.2

Handler = Callable[[dict[str, Any]], Awaitable[None]]


class BusAway(Exception):
    """Redis did not take a frame in time: some nodes may not have been told."""


class Node:
    def __init__(self, name: str, layer: ChannelLayer) -> None:
        self.name = name
        self.boot = uuid4().hex[:12]
        self.channel = f"node.{name}.{self.boot}"
        self.hub = Hub()
        self.draining = False
        self.hears_itself = False  # what it publishes to itself comes back: the bus works in both directions
        self._layer = layer
        self._pipe = layer.pipe()
        self.registry = Registry(self._pipe)
        self._counters = FrameCounters()
        self._gaps = GapDetector()
        self._announcements = Announcements()
        self._started_at = datetime.now(UTC)
        self._last_own_beat = time.monotonic()
        self._lease_count = 0
        self._gone: set[str] = set()
        self._departing: set[str] = set()  # who left while Redis was away
        self._tasks: set[asyncio.Future[None]] = set()
        self._on_resync: Callable[[], None] = lambda: None
        self._on_unreached: Callable[[bytes, set[UUID]], Awaitable[None]] | None = None
        self._handlers: dict[str, Handler] = {
            "frame": self._on_frame,
            "presence": self._on_presence,
            "beat": self._on_beat,
            "sessions.ended": self._on_sessions_ended,
        }

    def on(self, kind: str, handler: Handler) -> None:
        """Let `handler` take the bus messages of type `kind`."""
        self._handlers[kind] = handler

    def on_unreached(self, handler: Callable[[bytes, set[UUID]], Awaitable[None]]) -> None:
        """Called with a frame and those of its users whose last socket here closed while it was on its way."""
        self._on_unreached = handler

    def on_resync(self, callback: Callable[[], None]) -> None:
        """Called when this node may have missed something: what it remembers of others may be out of date."""
        self._on_resync = callback

    # --- life --------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        self._layer.on_reconnect(self.channel, self._on_reconnect)
        self._spawn(self._route())
        for work, interval in (
            (self._renew_lease, LEASE_INTERVAL_S),
            (self._beat, LEASE_INTERVAL_S),
            (self._refresh, REFRESH_INTERVAL_S),
            (self._bury_dead_node, 2),
            (self._announce, ANNOUNCE_INTERVAL_S),
            (self._close_silent, 5),
            (self._recheck_sessions, RECHECK_SESSIONS_S),
        ):
            self._spawn(self._every(interval, work))

    async def stop(self) -> None:
        """Leave the registry and stop. The sockets are closed by the server that holds them."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            self._gone |= await self.registry.online.depart(self.channel, self.hub.users())
            await self.registry.watchers.depart(self.channel, self.hub.watched())
            await self.registry.end_lease(self.channel)
        except RedisError as error:
            logger.warning("left without signing off, as Redis is away: %s", error)
        await last_seen.note(self._gone)

    # --- sockets -----------------------------------------------------------------------------------------------------
    async def add(self, socket: Socket) -> None:
        """Take a socket in. When this returns, messages stored from now on reach it (or a resync does)."""
        user = str(socket.identity.person.id)
        self.hub.add(socket)
        metrics.connections.inc()
        try:
            if await self.registry.online.arrive(self.channel, [user]):
                self._announcements.came(user, time.monotonic())
        except RedisError:
            # Skipping a number makes the next renewal of the lease find that something is amiss: refresh and resync.
            self._lease_count += 1
            logger.warning("a socket was taken in while Redis is away", extra={"user_id": user})

    async def remove(self, socket: Socket) -> None:
        user = str(socket.identity.person.id)
        was_last = self.hub.remove(socket)
        metrics.connections.dec()
        await self.watch(socket, frozenset())
        if was_last:
            await self._depart([user])

    async def watch(self, socket: Socket, users: frozenset[str]) -> None:
        """Let a socket hear of these users' status from now on, and of no others."""
        begun, ended = self.hub.watch(socket, users)
        try:
            if begun:
                await self.registry.watchers.arrive(self.channel, begun)
            if ended:
                await self.registry.watchers.depart(self.channel, ended)
        except RedisError:
            logger.warning("watches wait for Redis to be back")

    async def _depart(self, users: Collection[str]) -> None:
        try:
            gone = await self.registry.online.depart(self.channel, users)
        except RedisError:
            self._departing.update(users)  # the entries expire by themselves, but somebody has to tell
            return
        self._left(gone)

    def _left(self, users: Collection[str]) -> None:
        self._gone.update(users)
        for user in users:
            self._announcements.left(user, time.monotonic())

    # --- delivery ----------------------------------------------------------------------------------------------------
    async def deliver(self, user_ids: Collection[UUID], frame: bytes) -> set[UUID]:
        """
        Hand an encoded frame to every socket of these users, on every node; returns the users who are nowhere.

        When it returns, every node that holds one of them has been handed the frame or finds out by itself that it
        missed something. Raises BusAway when that cannot be said.
        """
        reached = self.hub.send(user_ids, frame)
        failpoints.reached("told-here")
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
        nodes = await self.registry.nodes_of(user_ids)
        for_node: defaultdict[str, list[UUID]] = defaultdict(list)
        for user_id, channels in nodes.items():
            for channel in channels:
                if channel != self.channel:
                    for_node[channel].append(user_id)
        sent = [(ids, self._send_numbered(channel, _frame_for(ids, frame))) for channel, ids in for_node.items()]
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
            sent = [self._send_numbered(channel, message) for channel in await self.registry.live_nodes()]
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

    async def broadcast(self, message: dict[str, Any]) -> None:
        """To every node, this one included, at most once each. Raises RedisError."""
        await self._layer.group_send(NODES_GROUP, message)

    def _send_numbered(self, channel: str, message: dict[str, Any]) -> "asyncio.Future[int]":
        """Numbered and queued in one step, so that numbers go out in order; the number of receivers comes later."""
        number = self._counters.next(channel)
        return self._layer.publish(channel, {**message, "origin": self.channel, "number": number})

    # --- what comes over the bus -------------------------------------------------------------------------------------
    async def _route(self) -> None:
        await self._subscribe()
        while True:
            message = await self._layer.receive(self.channel)
            if "origin" in message and self._gaps.missed(message["origin"], message["number"]):
                self.resync("gap")
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
            self.resync("error")

    async def _on_frame(self, message: dict[str, Any]) -> None:
        to = message["to"]
        user_ids = [UUID(bytes=to[start : start + 16]) for start in range(0, len(to), 16)]
        unreached = set(user_ids) - self.hub.send(user_ids, message["frame"])
        if unreached and self._on_unreached is not None:
            self._spawn(self._on_unreached(message["frame"], unreached))

    async def _on_presence(self, message: dict[str, Any]) -> None:
        for user, frame in message["changes"]:
            self.hub.tell_watchers(user, frame)

    async def _on_beat(self, message: dict[str, Any]) -> None:
        if message["origin"] == self.channel:
            self._last_own_beat = time.monotonic()
            self.hears_itself = True

    async def _on_sessions_ended(self, message: dict[str, Any]) -> None:
        sessions, user_id = set(message["sessions"]), message["user_id"]
        for socket in self.hub.sockets():
            if socket.identity.session_id in sessions or str(socket.identity.person.id) == user_id:
                await socket.close(message["code"])

    def _on_reconnect(self) -> None:
        metrics.reconnects.inc()
        self.resync("reconnect")

    def resync(self, reason: str) -> None:
        """Tell every local socket to catch up from the history: something may not have reached it."""
        metrics.resyncs.labels(reason).inc()
        logger.info("resync", extra={"reason": reason, "connections": len(self.hub)})
        self._on_resync()
        for socket in self.hub.sockets():
            socket.push(RESYNC_FRAME)

    # --- what a node does all the time -------------------------------------------------------------------------------
    async def _renew_lease(self) -> None:
        self._lease_count += 1
        if not await self.registry.renew_lease(self.channel, self._lease_count, self._info()) and self._lease_count > 1:
            await self._refresh()
            self.resync("registry lost")

    def _info(self) -> NodeInfo:
        return NodeInfo(
            name=self.name,
            boot=self.boot,
            host=network.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at.isoformat(timespec="seconds"),
            connections=len(self.hub),
            users=len(self.hub.users()),
        )

    async def _beat(self) -> None:
        """A numbered beat to itself, and one to each node that was sent something: a lost tail shows at once."""
        for channel in self._counters.take_unconfirmed() | {self.channel}:
            number = self._counters.next_beat(channel)
            beat = {"type": "beat", "origin": self.channel, "number": number}
            if not await self._layer.send(channel, beat) and channel != self.channel:
                self._counters.forget(channel)
        metrics.bus_queue.set(self._pipe.waiting)
        if time.monotonic() - self._last_own_beat > SILENT_BUS_S:
            self._last_own_beat = time.monotonic()
            self.hears_itself = False
            self.resync("silence")

    async def _refresh(self) -> None:
        if self._departing:
            gone = self._departing - set(self.hub.users())
            await self.registry.online.depart(self.channel, gone)
            self._departing.clear()
            self._left(gone)
        for user in await self.registry.online.arrive(self.channel, self.hub.users()):
            self._announcements.came(user, time.monotonic())
        await self.registry.watchers.arrive(self.channel, self.hub.watched())

    async def _bury_dead_node(self) -> None:
        """Take the users of a node whose lease has ended offline; the claim makes this the only node that does."""
        dead = await self.registry.claim_dead()
        if dead is None or dead == self.channel:
            return
        logger.warning("a node died", extra={"node": dead})
        self._left(await self.registry.online.depart(dead, await self.registry.online.held_by(dead)))
        await self.registry.watchers.depart(dead, await self.registry.watchers.held_by(dead))
        await self.registry.end_lease(dead)
        self._gaps.forget(dead)
        self._counters.forget(dead)

    async def _announce(self) -> None:
        """Tell the nodes that watch it of each change of status, one message per node."""
        gone, self._gone = self._gone, set()
        await last_seen.note(gone)
        due = self._announcements.take_due(time.monotonic())
        if not due:
            return
        try:
            await self._tell_watchers(due)
        except RedisError:
            self._announcements.again(due, time.monotonic())
            raise

    async def _tell_watchers(self, due: Collection[str]) -> None:
        watching = await self.registry.watchers.nodes_of(due)
        watched = [user for user in due if watching[user]]
        if not watched:
            return
        online = await self.registry.online.nodes_of(watched)
        seen = await last_seen.of(watched)
        for_node: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for user in watched:
            frame = presence_frame(user, bool(online[user]), seen.get(user))
            for channel in watching[user]:
                for_node[channel].append((user, frame))
        for channel, changes in for_node.items():
            await self._send_numbered(channel, {"type": "presence", "changes": changes})

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

    async def _every(self, interval: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            started = time.monotonic()
            try:
                await work()
            except RedisError as error:
                logger.warning("Redis is away: %s", error, extra={"work": work.__name__})
            except Exception:  # the outermost loop of this node's duties
                logger.exception("a duty of the node failed", extra={"work": work.__name__})
            await asyncio.sleep(max(0.0, interval - (time.monotonic() - started)))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _frame_for(user_ids: list[UUID], frame: bytes) -> dict[str, Any]:
    return {"type": "frame", "to": b"".join(user_id.bytes for user_id in user_ids), "frame": frame}


def presence_frame(user: str, online: bool, seen: str | None) -> bytes:
    return msgspec.json.encode(Presence(UUID(user), "online" if online else "offline", seen))


def name_of(channel: str) -> str:
    """The name of the node that listens on this channel."""
    return channel.removeprefix("node.").rpartition(".")[0]


@per_loop
def current() -> Node:
    """The node of this process. Outside a chat server (a command, a task) it holds no sockets, but still delivers."""
    return Node(settings.NODE_ID, get_channel_layer())

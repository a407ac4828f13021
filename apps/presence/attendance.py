"""
Who is here, kept true in Redis and told to those who watch.

Redis may forget, and a node may die: so each node puts back what it holds every 15 s, renews a lease every second, and
takes the users of a node whose lease has ended offline.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from uuid import UUID

import msgspec
from redis.exceptions import RedisError

from apps.presence import last_seen
from apps.presence.exchange import Exchange
from apps.presence.frames import Presence
from apps.presence.hub import Hub
from apps.presence.registry import NodeInfo, Registry
from apps.presence.status import AWAY_AHEAD_S, Announcements

logger = logging.getLogger(__name__)


class Attendance:
    """One node's part in it. `on_loss` is called with the reason when Redis has forgotten this node."""

    def __init__(self, hub: Hub, registry: Registry, exchange: Exchange, on_loss: Callable[[str], None]) -> None:
        self._hub = hub
        self._registry = registry
        self._exchange = exchange
        self._channel = exchange.channel
        self._on_loss = on_loss
        self._announcements = Announcements()
        self._lease_count = 0
        self._gone: set[str] = set()
        self._departing: set[str] = set()  # who left while Redis was away
        self._away: set[str] = set()  # who, as far as the others know, does not use what they have open here
        exchange.on_interruption(self.doubt)

    # --- what happens to this node's users ---------------------------------------------------------------------------
    async def arrive(self, user: str) -> None:
        try:
            if await self._registry.online.arrive(self._channel, [user]):
                self._announcements.came(user, time.monotonic())
        except RedisError:
            self.doubt()
            logger.warning("a socket was taken in while Redis is away", extra={"user_id": user})

    async def depart(self, users: Collection[str]) -> None:
        try:
            gone = await self._registry.online.depart(self._channel, users)
        except RedisError:
            self._departing.update(users)  # the entries expire by themselves, but somebody has to tell
            return
        self._left(gone)

    async def watch(self, begun: Collection[str], ended: Collection[str]) -> None:
        """This node has its first, or no longer any, socket that wants to hear of these users."""
        try:
            if begun:
                await self._registry.watchers.arrive(self._channel, begun)
            if ended:
                await self._registry.watchers.depart(self._channel, ended)
        except RedisError:
            logger.warning("watches wait for Redis to be back")

    def is_away(self, user: str) -> bool:
        """Whether the others have been told so."""
        return user in self._away

    async def back(self, user: str) -> None:
        """This user, who was away, has just used a socket of this node."""
        self._away.discard(user)
        try:
            await self._registry.away.depart(self._channel, [user])
        except RedisError:
            logger.warning("who is back counts as away a little longer, as Redis is away", extra={"user_id": user})

    async def leave(self) -> None:
        """With everyone on it: this node stops."""
        try:
            self._gone |= await self._registry.online.depart(self._channel, self._hub.users())
            await self._registry.watchers.depart(self._channel, self._hub.watched())
            await self._registry.away.depart(self._channel, self._away)
            await self._registry.end_lease(self._channel)
        except RedisError as error:
            logger.warning("left without signing off, as Redis is away: %s", error)
        await last_seen.note(self._gone)

    def _left(self, users: Collection[str]) -> None:
        self._gone.update(users)
        for user in users:
            self._announcements.left(user, time.monotonic())

    # --- what has to be done all the time ----------------------------------------------------------------------------
    async def renew_lease(self, info: NodeInfo) -> None:
        self._lease_count += 1
        if not await self._registry.renew_lease(self._channel, self._lease_count, info) and self._lease_count > 1:
            await self.refresh()
            self._on_loss("registry lost")

    def doubt(self) -> None:
        """
        Redis may not know who is here, even if it remembers the lease: one that goes back by less than a second does.

        Skipping a number makes the next renewal of the lease find that something is amiss: refresh and resync.
        """
        self._lease_count += 1

    async def refresh(self) -> None:
        if self._departing:
            gone = self._departing - set(self._hub.users())
            await self._registry.online.depart(self._channel, gone)
            self._departing.clear()
            self._left(gone)
        for user in await self._registry.online.arrive(self._channel, self._hub.users()):
            self._announcements.came(user, time.monotonic())
        await self._registry.watchers.arrive(self._channel, self._hub.watched())
        await self._registry.away.arrive(self._channel, self._away)

    async def tell_away(self) -> None:
        """Let the workers know to whom to push although they have something open here."""
        away = self._hub.away(time.monotonic() + AWAY_AHEAD_S)
        went, back = away - self._away, self._away - away
        self._away = away
        await self._registry.away.arrive(self._channel, went)
        await self._registry.away.depart(self._channel, back)

    async def bury_dead_node(self) -> None:
        """Take the users of a node whose lease has ended offline; the claim makes this the only node that does."""
        dead = await self._registry.claim_dead()
        if dead is None or dead == self._channel:
            return
        logger.warning("a node died", extra={"node": dead})
        self._left(await self._registry.online.depart(dead, await self._registry.online.held_by(dead)))
        await self._registry.watchers.depart(dead, await self._registry.watchers.held_by(dead))
        await self._registry.end_lease(dead)
        self._exchange.forget(dead)

    async def announce(self) -> None:
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
        watching = await self._registry.watchers.nodes_of(due)
        watched = [user for user in due if watching[user]]
        if not watched:
            return
        online = await self._registry.online.nodes_of(watched)
        seen = await last_seen.of(watched)
        for_node: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for user in watched:
            frame = presence_frame(user, bool(online[user]), seen.get(user))
            for channel in watching[user]:
                for_node[channel].append((user, frame))
        for channel, changes in for_node.items():
            await self._exchange.send(channel, {"type": "presence", "changes": changes})


def presence_frame(user: str, online: bool, seen: str | None) -> bytes:
    return msgspec.json.encode(Presence(UUID(user), "online" if online else "offline", seen))

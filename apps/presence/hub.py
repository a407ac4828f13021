"""
The sockets of this process: which users they belong to, and which of them watch whom.

A socket is any object with `push(frame)`, which takes one encoded frame without waiting. Everything here is plain
memory on one event loop.
"""

import time
from collections import defaultdict
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from typing import Protocol
from uuid import UUID

from apps.accounts.identity import Identity
from apps.presence import metrics


class Socket(Protocol):
    identity: Identity
    last_heard: float  # monotonic: when anything came from it
    last_active: float  # monotonic: when its person last did something with it

    def push(self, frame: bytes) -> bool:
        """
        Queue a frame for this socket; returns whether it was taken, which a closing socket does not.

        Never waits; a socket that reads too slowly is dealt with by itself.
        """
        ...

    async def close(self, code: int) -> None: ...


class Hub:
    def __init__(self, away_after_s: float) -> None:
        self._away_after_s = away_after_s
        self._sockets: defaultdict[UUID, set[Socket]] = defaultdict(set)
        self._watching: dict[Socket, frozenset[str]] = {}
        self._watchers: defaultdict[str, set[Socket]] = defaultdict(set)

    def add(self, socket: Socket) -> None:
        self._sockets[socket.identity.person.id].add(socket)

    def remove(self, socket: Socket) -> bool:
        """Returns whether it was the user's last socket here."""
        user_id = socket.identity.person.id
        self._sockets[user_id].discard(socket)
        if self._sockets[user_id]:
            return False
        del self._sockets[user_id]
        return True

    def send(self, user_ids: Collection[UUID], frame: bytes) -> set[UUID]:
        """Push a frame to every socket of these users; returns those of them whom it reached, and who are not away."""
        reached, handed = set(), 0
        here, active_since = self._sockets, time.monotonic() - self._away_after_s
        for user_id in user_ids:
            if user_id in here:
                for socket in here[user_id]:
                    if socket.push(frame):
                        handed += 1
                        if socket.last_active > active_since:
                            reached.add(user_id)
        metrics.deliveries.inc(handed)
        return reached

    def watch(self, socket: Socket, users: frozenset[str]) -> tuple[set[str], set[str]]:
        """Replace what a socket watches; returns the users that this node newly watches, and no longer watches."""
        before = self._watching.pop(socket, frozenset())
        if users:
            self._watching[socket] = users
        begun = {user for user in users - before if not self._watchers[user]}
        for user in users:
            self._watchers[user].add(socket)
        ended = set()
        for user in before - users:
            self._watchers[user].discard(socket)
            if not self._watchers[user]:
                ended.add(user)
                del self._watchers[user]
        return begun, ended

    def tell_watchers(self, user: str, frame: bytes) -> None:
        for socket in self._watchers.get(user, ()):
            socket.push(frame)

    def sockets(self) -> list[Socket]:
        return [socket for sockets in self._sockets.values() for socket in sockets]

    def sockets_of(self, user_id: UUID) -> set[Socket]:
        return self._sockets.get(user_id, set())

    def away(self, now: float) -> set[str]:
        """The users who have a socket here, and have not used any of theirs for a while."""
        since = now - self._away_after_s
        return {
            str(user_id)
            for user_id, sockets in self._sockets.items()
            if all(socket.last_active <= since for socket in sockets)
        }

    def user_ids(self) -> AbstractSet[UUID]:
        return self._sockets.keys()

    def users(self) -> list[str]:
        return [str(user_id) for user_id in self._sockets]

    def watched(self) -> list[str]:
        return list(self._watchers)

    def __len__(self) -> int:
        return sum(map(len, self._sockets.values()))

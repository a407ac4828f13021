"""The decisions about who is here, without clock, network or framework: `now` is always an argument, in seconds."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

HEARTBEAT_INTERVAL_S = 30
OFFLINE_AFTER_S = 60
# An entry "user is on this node" outlives two refreshes, so that one lost refresh takes nobody offline.
REFRESH_INTERVAL_S = 15
ENTRY_TTL_S = 45
LEASE_INTERVAL_S = 1
LEASE_TTL_S = 6
# A page reload closes a socket and opens the next: nobody is told about an absence shorter than this.
OFFLINE_GRACE_S = 2
# Nodes tell each other of whom is away a little early, so that a push is not held up by somebody who has just gone.
AWAY_AHEAD_S = 10


def is_silent(last_heard: float, now: float) -> bool:
    """A socket from which nothing came for the whole offline time is dead, whatever TCP thinks."""
    return now - last_heard >= OFFLINE_AFTER_S


@dataclass
class Announcements:
    """
    Changes of status waiting to be told, one per user: the newest wins, and "offline" waits for the grace time.

    A user who is back within the grace time causes no announcement at all.
    """

    _due: dict[str, tuple[float, bool]] = field(default_factory=dict)

    def came(self, user: str, now: float) -> None:
        if user in self._due and not self._due[user][1]:
            del self._due[user]
        else:
            self._due[user] = (now, True)

    def left(self, user: str, now: float) -> None:
        self._due[user] = (now + OFFLINE_GRACE_S, False)

    def again(self, users: Iterable[str], now: float) -> None:
        """They were due and could not be told: next time, unless something newer is waiting by then."""
        for user in users:
            self._due.setdefault(user, (now, True))

    def take_due(self, now: float) -> list[str]:
        due = [user for user, (at, _) in self._due.items() if at <= now]
        for user in due:
            del self._due[user]
        return due


@dataclass
class FrameCounters:
    """Outgoing: the number of the next frame to each node, from 1, and which nodes are owed a closing beat."""

    _sent: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _unconfirmed: set[str] = field(default_factory=set)

    def next(self, node: str) -> int:
        self._unconfirmed.add(node)
        return self.next_beat(node)

    def next_beat(self, node: str) -> int:
        self._sent[node] += 1
        return self._sent[node]

    def take_unconfirmed(self) -> set[str]:
        """The nodes that were sent something since the last call: a beat to them shows whether its tail was lost."""
        nodes, self._unconfirmed = self._unconfirmed, set()
        return nodes

    def owe(self, nodes: Iterable[str]) -> None:
        """Their beats may not have gone out."""
        self._unconfirmed.update(nodes)

    def forget(self, node: str) -> None:
        self._sent.pop(node, None)
        self._unconfirmed.discard(node)


@dataclass
class GapDetector:
    """
    Incoming: whether a frame was lost on the way here.

    Every frame carries its origin (node and boot) and that origin's count of frames to this node. A new origin starts
    at 1, so even the loss of its first frame shows.
    """

    _last: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def missed(self, origin: str, number: int) -> bool:
        expected = self._last[origin] + 1
        self._last[origin] = number
        return number != expected

    def forget(self, origin: str) -> None:
        self._last.pop(origin, None)

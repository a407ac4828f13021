"""
What keeps messages from getting lost, and each of it taken out: a simulation that does not notice proves nothing.

A safeguard is a function that patches the running process so that one of them is missing. `hint` is a seed that is
known to notice: where to begin looking, nothing more.

Not here, as others make up for them a moment later: the resync after a reconnect (the frames' numbers show the same
hole) and the client's own closing of gaps (the node that lost something says so).
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from apps.conversations import delivery
from apps.conversations.history.cassandra import CassandraHistory
from apps.conversations.history.group_commit import History
from apps.presence import exchange
from apps.presence.attendance import Attendance
from apps.presence.node import Node
from apps.presence.registry import Registry
from apps.presence.status import GapDetector
from apps.push import outbox
from tests.simulation.cassandra import Partition, Tables
from tests.simulation.client import Client
from tests.simulation.client_rules import Message, Timeline

Patch = AbstractContextManager[Any]


class Safeguard(NamedTuple):
    taken_out: Callable[[], Patch]
    hint: int

    @property
    def name(self) -> str:
        return self.taken_out.__name__


# --- the log ---------------------------------------------------------------------------------------------------------
def conditional_write() -> Patch:
    """`IF last_seq = …`: without it two nodes give the same number."""
    refusal = Tables._refusal

    def unconditional(self: Tables, partition: Partition, expected: Any, added: Any) -> Any:
        return refusal(self, partition, partition.statics, added)

    return patch.object(Tables, "_refusal", unconditional)


def row_per_message() -> Patch:
    """`IF NOT EXISTS` of lane 1: without it a repeat is a second message."""
    refusal = Tables._refusal

    def never_known(self: Tables, partition: Partition, expected: Any, added: Any) -> Any:
        return refusal(self, partition, expected, [])

    return patch.object(Tables, "_refusal", never_known)


def search_of_older_buckets() -> Patch:
    """By `after_seq`: without it a repeat is a second message once another bucket has been opened."""

    async def nothing(*_: Any) -> dict[Any, Any]:
        return {}

    return patch.object(CassandraHistory, "_find_earlier", nothing)


def membership_fence() -> Patch:
    """The members' version in the log: without it, who was removed speaks on through a node that has not heard."""
    append = History.append
    return patch.object(History, "append", lambda self, draft, version: append(self, draft, 0))


# --- what an ack means -----------------------------------------------------------------------------------------------
def delivery_on_repeat() -> Patch:
    """Without it nobody hears of a message whose first try died between storing and telling."""
    deliver = delivery.deliver

    async def only_once(message: Any, members: Any) -> None:
        if not message.repeated:
            await deliver(message, members)

    return patch.object(delivery, "deliver", only_once)


def ack_after_delivery() -> Patch:
    """Without it a node that dies has promised what it can't keep."""
    deliver = delivery.deliver

    async def later(message: Any, members: Any) -> None:
        asyncio.get_running_loop().create_task(deliver(message, members))

    return patch.object(delivery, "deliver", later)


def outbox_before_ack() -> Patch:
    """Without the outbox table, a push that the broker did not take is forgotten."""

    async def only_the_broker(task: str, notices: Any) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(outbox._PUBLISHERS, outbox.publish, task, notices)
        except OSError:
            return

    return patch.object(outbox, "publish_or_keep", only_the_broker)


# --- between nodes ---------------------------------------------------------------------------------------------------
def numbered_frames() -> Patch:
    """Without the count of frames from node to node, one that got lost is not missed."""
    return patch.object(GapDetector, "missed", lambda self, origin, number: False)


def resync_on_silence() -> Patch:
    """Without it a node whose subscription is dead does not know."""
    return patch.object(exchange, "SILENT_BUS_S", 1e9)


def counted_leases() -> Patch:
    """Without the count in the lease nobody notices that Redis has forgotten who is where."""
    renew = Registry.renew_lease

    async def as_if_remembered(*args: Any) -> bool:
        await renew(*args)
        return True

    return patch.object(Registry, "renew_lease", as_if_remembered)


def doubt_after_interruption() -> Patch:
    """Without it, a Redis that goes back by less than the time between two leases has forgotten people for good."""
    return patch.object(Attendance, "doubt", lambda self: None)


def arrival_before_hello() -> Patch:
    """Without it (0.3 s later), what is said between a client's sync and its registration reaches it neither way."""
    add = Node.add

    async def later(self: Node, socket: Any) -> None:
        await asyncio.sleep(0.3)
        if socket._out is not None:  # it is still there
            await add(self, socket)

    async def in_the_background(self: Node, socket: Any) -> None:
        self._spawn(later(self, socket))

    return patch.object(Node, "add", in_the_background)


def asking_anew_where_people_are() -> Patch:
    """Without it (by an answer up to 2 s old), who has just arrived is not told of what was stored since."""
    holders = Registry.holders

    async def as_a_moment_ago(self: Registry, user_ids: Any) -> Any:
        known = vars(self).setdefault("known", {})
        now = asyncio.get_running_loop().time()
        asked_at, answer = known.get(frozenset(user_ids), (0.0, None))
        if answer is None or now > asked_at + 2:
            known[frozenset(user_ids)] = now, (answer := await holders(self, user_ids))
        return answer

    return patch.object(Registry, "holders", as_a_moment_ago)


# --- the client ------------------------------------------------------------------------------------------------------
def holding_what_is_ahead() -> Patch:
    """Without it a client passes over what it has not got."""

    def take_at_once(self: Timeline, message: Message, now: float) -> list[Message]:
        if message["seq"] <= self.cursor:
            return []
        self.cursor = message["seq"]
        return [message]

    return patch.object(Timeline, "receive", take_at_once)


def dropping_what_is_known() -> Patch:
    """Without it a client shows a message as often as it is delivered."""
    receive = Timeline.receive

    def show_again(self: Timeline, message: Message, now: float) -> list[Message]:
        return receive(self, message, now) if message["seq"] > self.cursor else [message]

    return patch.object(Timeline, "receive", show_again)


def sync_after_hello() -> Patch:
    """Without it a client misses what was said while it was not connected."""
    hello = Client._hello

    @contextmanager
    def patched() -> Iterator[None]:
        def caught_up_already(self: Client, frame: Any) -> None:
            with patch.object(Client, "_sync", lambda client: client._caught_up()):
                hello(self, frame)

        with patch.object(Client, "_hello", caught_up_already):
            yield

    return patched()


def sync_on_resync() -> Patch:
    """Without it nobody who was told that they have missed something looks for it."""
    take = Client._take

    def ignoring(self: Client, frame: Any) -> None:
        if frame["type"] != "resync":
            take(self, frame)

    return patch.object(Client, "_take", ignoring)


SAFEGUARDS = [
    Safeguard(conditional_write, 2),
    Safeguard(row_per_message, 8),
    Safeguard(search_of_older_buckets, 16),
    Safeguard(membership_fence, 22),
    Safeguard(delivery_on_repeat, 56),
    Safeguard(ack_after_delivery, 29),
    Safeguard(outbox_before_ack, 58),
    Safeguard(numbered_frames, 252),
    Safeguard(resync_on_silence, 47),
    Safeguard(counted_leases, 33),
    Safeguard(doubt_after_interruption, 37),
    Safeguard(arrival_before_hello, 18),
    Safeguard(asking_anew_where_people_are, 139),
    Safeguard(holding_what_is_ahead, 2),
    Safeguard(dropping_what_is_known, 0),
    Safeguard(sync_after_hello, 0),
    Safeguard(sync_on_resync, 20),
]

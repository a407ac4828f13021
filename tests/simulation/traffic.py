"""
What messages and presence cost the bus, with 1 to 1,000 nodes: `python -m tests.simulation.traffic`.

The nodes are real: who is told on which node, numbered beats, leases, rosters and announcements are the code of apps/,
each duty at its own interval. Redis and time are simulated (world.py), so that a thousand of them fit into one process.
People are spread over the nodes by chance, as a load balancer does. Counted is what Redis is asked, and passes on.
"""

import gc
import math
import os
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
import django
import msgspec

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings.test")
django.setup()

from apps.accounts.identity import Identity  # noqa: E402  (needs the app registry)
from apps.accounts.people import Person  # noqa: E402
from apps.conversations import delivery, memberships, reads, services  # noqa: E402
from apps.conversations.memberships import Members  # noqa: E402
from apps.conversations.messages import Kind, Message  # noqa: E402
from apps.conversations.protocol import ConversationOut  # noqa: E402
from apps.presence import metrics, node  # noqa: E402
from apps.presence.bus import ChannelLayer  # noqa: E402
from apps.presence.node import Node  # noqa: E402
from tests.simulation import redis as simulated_redis  # noqa: E402
from tests.simulation import world as worlds  # noqa: E402
from tests.simulation.redis import Redis  # noqa: E402
from tests.simulation.world import World  # noqa: E402

SETTLE_S = 4.0  # until what was done is told to everyone
IDLE_S = 15.0  # every roster is renewed once
PAUSE_S = 1.0  # between messages to a group
TALK_S = 4.0
CONTENT = "See you at the station at eight, platform nine and three quarters. I will bring the tickets and some tea."
SCRIPTS = {simulated_redis._text(name): name for name in ("arrive", "depart", "nodes_of", "lease", "claim_dead")}
SCRIPTS |= {simulated_redis._sha(text): name for text, name in SCRIPTS.items()}

Costs = dict[str, float]


class CountingRedis(Redis):
    """`counts`: commands and messages by name, the keys that scripts look at, and the bytes of messages."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        super().__init__(now_ms)
        self.counts: Counter[str] = Counter()
        self._wire = ChannelLayer("redis://simulated")

    def carry_out(self, command: tuple[Any, ...]) -> Any:
        name, *args = command
        self.counts["commands"] += 1
        if script := SCRIPTS.get(args[0]):
            self.counts[script] += 1
            self.counts[f"{script} keys"] += args[1]
        else:
            self.counts[name] += 1
        return super().carry_out(command)

    def _do_publish(self, channel: str, message: Any) -> int:
        receivers = super()._do_publish(channel, message)
        kind = "own beat" if message["type"] == "beat" and message["origin"] == channel else message["type"]
        self.counts[kind] += receivers
        self.counts[f"{kind} bytes"] += receivers * len(self._wire.serialize(message))
        return receivers


class Socket:
    """Of a person who never stops using it. It reads what it is given at once."""

    taken_bytes = 0  # by all of them
    last_heard = last_active = math.inf

    def __init__(self, person: Person) -> None:
        self.identity = Identity(person, f"t-{person.id.hex}", is_staff=False)

    def push(self, frame: bytes) -> bool:
        Socket.taken_bytes += len(frame)
        return True

    async def close(self, code: int) -> None:
        raise AssertionError(f"closed with {code}, and nothing is wrong here")


@dataclass(frozen=True)
class Load:
    nodes: Sequence[int]
    people: int
    rates: Sequence[int]  # direct messages of one node, each second
    groups: Sequence[int]  # sizes, with everyone online
    changing: Sequence[int]  # sizes of groups that somebody joins
    watched: int  # people of whose status each one wants to hear
    visitors: int = 20  # people who come and go
    messages: int = 3  # in each group


FULL = Load((1, 10, 100, 1_000), 3_000, (10, 1_000), (10, 100, 1_000, 3_000), (10, 100, 1_000), watched=20)
SMALL = Load((1, 4, 32), 1_100, (10, 50), (10, 1_000, 1_100), (10, 40), watched=5, visitors=5, messages=2)


class Traffic:
    """So many nodes, with everyone on one of them."""

    def __init__(self, nodes: int, load: Load) -> None:
        self._load = load
        self._world = World(seed=1)
        worlds.become(self._world)
        self._random = self._world.random
        self._redis = CountingRedis(lambda: (worlds.EPOCH_S + self._world.scheduler.now) * 1_000)
        self._world.redis = self._redis
        for number in range(nodes):
            self._world.start_node(f"node-{number}")
        self._names = [f"person-{number}" for number in range(load.people)]
        sizes = {*load.groups, *load.changing}
        self._groups = {size: self._world.conversation("tea", self._names[:size]) for size in sizes}
        self._at = {name: self._random.choice(self._world.nodes) for name in self._names}
        self._sockets: dict[str, Socket] = {}

    # --- what happens ------------------------------------------------------------------------------------------------
    def _do(self, process: worlds.Node, what: Callable[[Node], Awaitable[Any]], after_s: float = 0.0) -> None:
        """On that node, as one of its tasks."""
        at = self._world.scheduler.now + after_s
        self._world.scheduler.at(at, process, lambda: process.create_task(what(node.current())))

    def _run(self, seconds: float) -> None:
        self._world.scheduler.run_until(self._world.scheduler.now + seconds)
        if self._world.errors:
            raise AssertionError(self._world.errors[:3])

    def _counted(self, seconds: float) -> Counter[str]:
        """What happens from now on for so long."""
        counts = self._redis.counts = Counter()
        Socket.taken_bytes = Loads.rows = 0
        resyncs = _resyncs()
        self._run(seconds)
        counts["socket bytes"], counts["membership rows"] = Socket.taken_bytes, Loads.rows
        counts["resyncs"] = _resyncs() - resyncs
        return counts

    def settle(self) -> None:
        """Everyone is here, and has been announced to those who watch them."""
        self._run(1)
        self._arrive(self._names)
        self._run(SETTLE_S)
        for name in self._names:
            others = self._random.sample(self._names, self._load.watched)
            users = frozenset(str(self._world.person(other).id) for other in others)
            self._do(self._at[name], lambda this, name=name, users=users: this.watch(self._sockets[name], users))
        self._run(SETTLE_S)

    def _arrive(self, names: Collection[str]) -> None:
        for name in names:
            self._sockets[name] = Socket(self._world.person(name))
            self._do(self._at[name], lambda this, name=name: this.add(self._sockets[name]))

    def _leave(self, names: Collection[str]) -> None:
        for name in names:
            self._do(self._at[name], lambda this, name=name: this.remove(self._sockets[name]))

    def _say(self, members: Members, after_s: float) -> None:
        """By the first of them, on the node that they are on."""
        sender = next(iter(members.present.values())).person
        ids = members.conversation_id, 1, sender.id, self._world.new_id()
        message = Message(*ids, Kind.TEXT, CONTENT, datetime.now(UTC))
        self._do(self._at[sender.username], lambda _: delivery.deliver(message, members), after_s)

    def _pair(self, one: str) -> Members:
        other = self._random.choice([name for name in self._names if name != one])
        return self._world.members[self._world.conversation("pair", [one, other])]

    # --- what it costs -----------------------------------------------------------------------------------------------
    def idle(self) -> Costs:
        counts, nodes = self._counted(IDLE_S), len(self._world.nodes)
        roster_keys = counts["arrive keys"] - counts["arrive"]
        return {
            "Redis commands per node and second": counts["commands"] / IDLE_S / nodes,
            "bus messages per node and second": (counts["own beat"] + counts["beat"]) / IDLE_S / nodes,
            "roster entries renewed per person and second": roster_keys / IDLE_S / len(self._names),
        }

    def direct(self, rate: int) -> Costs:
        """One node says so many direct messages each second; the others are idle."""
        here = [name for name, at in self._at.items() if at is self._world.nodes[0]]
        number = int(rate * TALK_S)
        for each in range(number):
            self._say(self._pair(self._random.choice(here)), each / rate)
        counts = self._counted(TALK_S + 2)
        asked = counts["nodes_of"] + counts["ZADD"] + counts["frame"] + counts["beat"]
        return {
            "frames per message": counts["frame"] / number,
            "beats per message": counts["beat"] / number,
            "Redis commands per message": asked / number,
            "bus bytes per message": (counts["frame bytes"] + counts["beat bytes"]) / number,
            "resyncs, though nothing was lost": counts["resyncs"],
        }

    def group(self, size: int) -> Costs:
        members, number = self._world.members[self._groups[size]], self._load.messages
        for each in range(number):
            self._say(members, each * PAUSE_S)
        counts = self._counted(number * PAUSE_S + 2)
        frames = counts["frame"] + counts["conversation.frame"]
        sent_bytes = counts["frame bytes"] + counts["conversation.frame bytes"] + counts["beat bytes"]
        return {
            "frames per message": frames / number,
            "beats per message": counts["beat"] / number,
            "registry keys looked up per message": counts["nodes_of keys"] / number,
            "bus bytes per message": sent_bytes / number,
            "socket bytes per message": counts["socket bytes"] / number,
            "membership rows read from PostgreSQL in 30 s": counts["membership rows"],
        }

    def presence(self) -> Costs:
        """People come and go."""
        visitors = self._names[: self._load.visitors]
        self._leave(visitors)
        gone = self._counted(SETTLE_S)
        self._arrive(visitors)
        counts = gone + self._counted(SETTLE_S)
        changes = 2 * len(visitors)
        return {
            "frames per change": counts["presence"] / changes,
            "beats per change": counts["beat"] / changes,
            "bus bytes per change": (counts["presence bytes"] + counts["beat bytes"]) / changes,
        }

    def membership(self, size: int) -> Costs:
        """Everyone is told that somebody has joined."""
        conversation_id = self._groups[size]
        self._do(self._world.nodes[0], lambda _: delivery.members_changed(conversation_id))
        self._do(self._world.nodes[0], lambda _: services._tell_changed(conversation_id), after_s=0.1)
        counts = self._counted(SETTLE_S + size * 0.01)
        return {
            "bus messages": counts["members.changed"] + counts["frame"],
            "registry lookups, one after the other": counts["nodes_of"],
            "socket bytes": counts["socket bytes"],
        }


class Loads:
    """Memberships that nodes read from PostgreSQL because they do not remember them."""

    rows = 0
    _load = staticmethod(worlds._load)

    @classmethod
    def count(cls, conversation_id: UUID, user_id: UUID | None) -> Members | None:
        members = cls._load(conversation_id, user_id)
        cls.rows += len(members.present) if members is not None else 0
        return members


def _resyncs() -> int:
    samples = (sample for family in metrics.resyncs.collect() for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))


async def _as_each_sees_it(members: Members, user_ids: Collection[UUID]) -> dict[UUID, ConversationOut]:
    """`reads.conversation_for`, but for what it asks of the stores."""
    return {each: await reads._conversation_out(members, members.get(each), 0, None) for each in user_ids}


# --- the run ---------------------------------------------------------------------------------------------------------
def measure(nodes: int, load: Load) -> dict[str, Costs]:
    """By what was done."""
    traffic = Traffic(nodes, load)
    traffic.settle()
    costs = {"nobody says anything": traffic.idle()}
    costs |= {f"direct, {rate:,} messages per second of one node": traffic.direct(rate) for rate in load.rates}
    costs |= {f"group of {size:,}, all online": traffic.group(size) for size in load.groups}
    costs[f"somebody comes or goes, each is watched by {load.watched}"] = traffic.presence()
    costs |= {f"somebody joins a group of {size:,}": traffic.membership(size) for size in load.changing}
    gc.collect()
    return costs


def rows(measured: dict[int, dict[str, Costs]]) -> list[str]:
    """As a Markdown table: a column for each number of nodes."""
    lines = [f"| nodes | {' | '.join(f'{nodes:,}' for nodes in measured)} |", f"|---|{'---|' * len(measured)}"]
    first = next(iter(measured.values()))
    for what, costs in first.items():
        lines.append(f"| **{what}** |{' |' * len(measured)}")
        for name in costs:
            lines.append(f"| {name} | {' | '.join(_short(each[what][name]) for each in measured.values())} |")
    return lines


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


@click.command(help=__doc__)
@click.option("--small", is_flag=True, help="Few people and nodes: it takes seconds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(small: bool, as_json: bool) -> None:
    worlds.install()
    memberships._load = Loads.count
    reads.conversation_for = _as_each_sees_it
    warnings.simplefilter("ignore", RuntimeWarning)  # tasks of a world that is over have no end
    gc.freeze()
    load = SMALL if small else FULL
    measured = {nodes: measure(nodes, load) for nodes in load.nodes}
    click.echo(msgspec.json.encode(measured) if as_json else "\n".join(rows(measured)))


if __name__ == "__main__":
    main()

"""
What people do, each as it is measured: one function per workload, from a crowd to figures.

A figure's name ends in its unit. Where a rate is climbed, the figures are those of the highest one that held.
"""

import asyncio
import random
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.load import crowd as crowds
from tests.load import evidence, pace
from tests.load.chat import ChatClient
from tests.load.crowd import Conversation, Crowd
from tests.load.machine import cpu_s, memory_bytes
from tests.load.pace import Measured, Plan
from tests.load.tally import Tally, percentile
from tests.load.targets import Chat, Target

PAGE = 50
GROUP = 50  # members of each where there are many
WATCHED = 20
QUIET_CPU = 0.2  # of a core
QUIET_DEADLINE_S = 60


@dataclass(frozen=True)
class Size:
    pairs: int = 100
    group: int = 100
    idle: int = 2_000
    idle_s: float = 10
    messages: int = 10_000
    callers: int = 8
    calling_s: float = 5
    storm: int = 2_000
    missed: int = 50
    hot: int = 32
    mixed: int = 1_000
    first_rate: float = 200
    highest_rate: float = 50_000
    step_s: float = 3
    warm_up: bool = True


SMALL = Size(
    pairs=5, group=10, idle=20, idle_s=0.5, messages=120, callers=2, calling_s=0.5, storm=100, missed=5, hot=4,
    mixed=100, first_rate=20, highest_rate=40, step_s=0.3, warm_up=False,
)  # fmt: skip


@dataclass
class Outcome:
    figures: dict[str, float]
    steps: list[Measured] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    target: Target
    size: Size
    history: Path  # for the checker
    first_rate: float  # to begin with, where a rate is climbed
    growth: float = 2.0  # from there, until one breaks

    async def climb(self, crowd: Crowd[Any], plan: Plan) -> list[Measured]:
        size = self.size
        return await pace.climb(
            crowd,
            plan,
            self.target.processes(),
            first=self.first_rate,
            growth=self.growth,
            highest=size.highest_rate,
            seconds=size.step_s,
        )

    async def conclude(self, crowd: Crowd[Any], outcome: Outcome) -> Outcome:
        """With what the checker says, where there is a history to check."""
        if not isinstance(self.target, Chat):
            crowds.close(crowd.clients)
            return outcome
        readers = await evidence.read_again(crowd)
        crowds.close(crowd.clients)
        outcome.violations = evidence.judge(crowd, readers, self.history)
        return outcome


def climbed(steps: list[Measured], per: str = "message") -> Outcome:
    """Per delivery, where it is deliveries that count."""
    best, many = pace.best(steps), {"message": "messages", "delivery": "deliveries"}[per]
    if best is None:
        return Outcome({f"{many}/s": 0.0}, steps)
    times = best.deliveries / best.sent if per == "delivery" else 1.0
    figures = {
        f"{many}/s": best.rate * times,
        "p50 ms": best.p50_ms,
        "p99 ms": best.p99_ms,
        f"CPU µs/{per}": sum(best.cpu_us.values()) / times,
    }
    figures |= {f"{kind} µs/{per}": spent / times for kind, spent in sorted(best.cpu_us.items()) if spent}
    return Outcome(figures | {"driver CPU %": best.driver_cpu * 100}, steps)


# --- talking ---------------------------------------------------------------------------------------------------------
def in_turn(conversations: Sequence[Conversation]) -> Plan:
    """Each conversation in turn, and in each the members in turn."""
    speakers = [cycle(conversation.members) for conversation in conversations]
    for conversation, members in cycle(zip(conversations, speakers, strict=True)):
        yield next(members), conversation


async def direct(run: Run) -> Outcome:
    """People in pairs."""
    crowd = await run.target.gather(2 * run.size.pairs)
    await crowds.connect(crowd.clients)
    steps = await run.climb(crowd, in_turn(crowd.pairs))
    return await run.conclude(crowd, climbed(steps))


async def group(run: Run) -> Outcome:
    """One group, in which everyone is there and speaks in turn."""
    crowd = await run.target.gather(run.size.group, [range(run.size.group)])
    await crowds.connect(crowd.clients)
    steps = await run.climb(crowd, in_turn(crowd.groups))
    return await run.conclude(crowd, climbed(steps, "delivery"))


async def hot(run: Run) -> Outcome:
    """One conversation that every node writes at once."""
    crowd: Crowd[ChatClient] = await run.target.gather(run.size.hot, [range(run.size.hot)])
    for index, client in enumerate(crowd.clients):
        while client.node != f"node-{index % run.target.nodes + 1}":  # all share a port, and the system deals
            client.close()
            await client.connect()
    steps = await run.climb(crowd, in_turn(crowd.groups))
    return await run.conclude(crowd, climbed(steps))


async def mixed(run: Run) -> Outcome:
    """A day: 2 % are active, 80 % of what they say is in pairs; everyone watches some, and some come and go."""
    people = run.size.mixed
    members = [range(first, first + GROUP) for first in range(1, people, GROUP) if first + GROUP <= people]
    visitors = people // 50 or 1
    crowd: Crowd[ChatClient] = await run.target.gather(people + visitors, members)
    await crowds.connect(crowd.clients)
    await asyncio.gather(*(client.catch_up() for client in crowd.clients))  # what the making of groups has said
    user_ids = [client.user_id for client in crowd.clients]
    for index, client in enumerate(crowd.clients[:people]):
        neighbours = user_ids[index + 1 : index + WATCHED]
        client.watch([*neighbours, user_ids[people + index % visitors]])
    coming = asyncio.create_task(_come_and_go(crowd.clients[people:]))
    steps = await run.climb(crowd, _as_people_talk(crowd, people))
    coming.cancel()
    return await run.conclude(crowd, climbed(steps))


def _as_people_talk(crowd: Crowd[Any], people: int) -> Plan:
    group_of = {index: group for group in crowd.groups for index in group.members}
    pair_of = {index: pair for pair in crowd.pairs for index in pair.members}
    active, until = [0], 0.0
    while True:
        if time.monotonic() > until:
            active, until = random.sample(range(people), max(1, people // 50)), time.monotonic() + 1
        speaker = random.choice(active)
        in_group = random.random() < 0.2 and speaker in group_of
        yield speaker, group_of[speaker] if in_group else pair_of[speaker]


async def _come_and_go(visitors: Sequence[ChatClient]) -> None:
    for visitor in cycle(visitors):
        visitor.close()
        await asyncio.sleep(1)
        await crowds.enter(visitor)


# --- being there -----------------------------------------------------------------------------------------------------
async def idle(run: Run) -> Outcome:
    """Connections with their login, and then nothing but heartbeats."""
    crowd = await run.target.gather(run.size.idle)
    await until_quiet(run.target)
    processes, number = run.target.processes(), run.size.idle
    memory, cpu = memory_bytes(run.target.servers()), cpu_s(processes)
    took, turned_away = await crowds.connect(crowd.clients)
    connected = cpu_s(processes)
    await asyncio.sleep(run.size.idle_s)
    rested = cpu_s(processes)
    of_connect = {kind: (connected[kind] - cpu[kind]) / number * 1e6 for kind in cpu}
    at_rest = {kind: (rested[kind] - connected[kind]) / run.size.idle_s * 100 for kind in cpu}
    figures = {
        "connects/s": number / took,
        "CPU µs/connect": sum(of_connect.values()),
        "KB/connection": (memory_bytes(run.target.servers()) - memory) / number / 1e3,
        "idle CPU %": sum(at_rest.values()),
        "turned away": float(turned_away),
        "cut off": float(sum(not client.is_open for client in crowd.clients)),
    }
    figures |= {f"{kind} µs/connect": used for kind, used in of_connect.items()}
    figures |= {f"{kind} idle CPU %": used for kind, used in at_rest.items()}
    crowds.close(crowd.clients)
    return Outcome(figures)


async def storm(run: Run) -> Outcome:
    """All at once they come back, and each has missed as much."""
    size = run.size
    groups = [range(first, first + GROUP) for first in range(1, size.storm + 1, GROUP)]
    crowd: Crowd[ChatClient] = await run.target.gather(size.storm + 2, groups)
    speakers = [crowd.clients[group.members[0]] for group in crowd.groups]
    await crowds.connect(speakers)
    for group in crowd.groups:  # and what the group's making says is one more
        await pace.fill(crowd, group, size.missed - 1)
    await until_quiet(run.target)
    others = [client for client in crowd.clients if client not in speakers]
    before, started = sum(cpu_s(run.target.processes()).values()), time.monotonic()
    turned_away = sum(await asyncio.gather(*map(_come_back, others)))
    figures = {
        "all in sync s": time.monotonic() - started,
        "turned away": float(turned_away),
        "CPU ms/client": (sum(cpu_s(run.target.processes()).values()) - before) / len(others) * 1e3,
    }
    return await run.conclude(crowd, Outcome(figures))


async def _come_back(client: ChatClient) -> int:
    """Connect and catch up, as a client must that was cut off; how often it was turned away."""
    turned_away = await crowds.enter(client)
    await client.catch_up()
    return turned_away


async def until_quiet(target: Target) -> None:
    """Until what was handed over for later is done, so that it is not measured with what comes next."""
    deadline = time.monotonic() + QUIET_DEADLINE_S
    before = sum(cpu_s(target.processes()).values())
    while time.monotonic() < deadline:
        await asyncio.sleep(1)
        now = sum(cpu_s(target.processes()).values())
        if now - before < QUIET_CPU:
            return
        before = now


# --- reading ---------------------------------------------------------------------------------------------------------
async def history(run: Run) -> Outcome:
    """The newest page of a long conversation, by a few who ask again as soon as they are answered."""
    crowd = await run.target.gather(2)
    await crowds.connect(crowd.clients)
    (conversation,) = crowd.pairs
    await pace.fill(crowd, conversation, run.size.messages)
    await until_quiet(run.target)
    callers = [crowd.clients[index % 2].twin(Tally()) for index in range(run.size.callers)]
    await crowds.connect(callers)
    asks = [partial(caller.newest, conversation.id, PAGE) for caller in callers]
    figures = await _asked(run, asks, "")
    if isinstance(run.target, Chat):
        readers = [caller.rest() for caller in callers]
        for reader in readers:
            await reader.connect()
        path = f"conversations/{conversation.id}/messages?limit={PAGE}"
        figures |= await _asked(run, [partial(reader.get, path) for reader in readers], "REST ")
        for reader in readers:
            reader.close()
    crowds.close(callers)
    return await run.conclude(crowd, Outcome(figures))


async def _asked(run: Run, asks: Sequence[Callable[[], Awaitable[object]]], prefix: str) -> dict[str, float]:
    took: array[float] = array("d")
    processes = run.target.processes()
    await asyncio.gather(*(ask() for ask in asks))  # what is slow the first time
    before, started = cpu_s(processes), time.monotonic()

    async def again_and_again(ask: Callable[[], Awaitable[object]]) -> None:
        while (asked := time.monotonic()) < started + run.size.calling_s:
            await ask()
            took.append(time.monotonic() - asked)

    await asyncio.gather(*map(again_and_again, asks))
    seconds, after = time.monotonic() - started, cpu_s(processes)
    used = sum(after.values()) - sum(before.values())
    return {
        f"{prefix}calls/s": len(took) / seconds,
        f"{prefix}p50 ms": percentile(took, 50) * 1000,
        f"{prefix}p99 ms": percentile(took, 99) * 1000,
        f"{prefix}CPU µs/call": used / len(took) * 1e6,
    }


WORKLOADS: dict[str, Callable[[Run], Awaitable[Outcome]]] = {
    "direct": direct,
    "group": group,
    "idle": idle,
    "history": history,
    "storm": storm,
    "hot": hot,
    "mixed": mixed,
}

"""
How cost grows: `python -m tests.load.curves`, with CURVES and STACKS to choose, and LARGEST to bound what is tried.

Each curve takes one thing from small to large, leaves the rest alone, and says by what power of it the cost grows: 0 is
constant, 1 linear. What is worse than linear in what a person sees is a defect.
"""

import asyncio
import math
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import uvloop

from tests.load import crowd as crowds
from tests.load import pace
from tests.load.bench import warm_up
from tests.load.chat import ChatClient
from tests.load.machine import DRIVER_CORE, allow_many_sockets, cpu_s, description, end_when_told, on_core
from tests.load.options import ARTEFACTS, Refused, chosen
from tests.load.report import commit_of, spread
from tests.load.tally import percentile
from tests.load.targets import BASE_DIR, Chat
from tests.load.workloads import PAGE, in_turn, until_quiet

CALLS = 30
RATE, STEP_S = 20, 3
PEOPLE = 40
MOST_SOCKETS = 2_000
MOST_CURSORS = 1_000  # in one `sync`
WEEK = 2_000  # messages that someone missed who was away for one
CHANGES = 10
AT_ONCE = 20


class Point(msgspec.Struct, frozen=True):
    size: int
    costs: dict[str, float]  # by name, which ends in the unit


def power(points: Sequence[tuple[float, float]]) -> float:
    """The slope of cost over size, both as logarithms, by least squares; 0 of less than two."""
    logs = [(math.log(size), math.log(cost)) for size, cost in points if size > 0 and cost > 0]
    if len(logs) < 2:
        return 0.0
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    width = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / width if width else 0.0


async def _cost_of(
    target: Chat, what: str, call: Callable[[], Awaitable[object]], calls: int = CALLS
) -> dict[str, float]:
    """One after the other; what comes before the first does not count."""
    await call()
    took: array[float] = array("d")
    before = sum(cpu_s(target.processes()).values())
    for _ in range(calls):
        began = time.monotonic()
        await call()
        took.append(time.monotonic() - began)
    used = sum(cpu_s(target.processes()).values()) - before
    return {f"{what} p50 ms": percentile(took, 50) * 1e3, f"{what} CPU µs": used / calls * 1e6}


# --- the curves ------------------------------------------------------------------------------------------------------
async def _group_of(target: Chat, size: int, online: int) -> dict[str, float]:
    """What a message costs there, at a rate that strains nothing."""
    crowd = await target.gather(size, [range(size)])
    await crowds.connect(crowd.clients[:online])
    (group,) = crowd.groups
    crowd.groups = [replace(group, members=range(online), deliveries=online)]
    step = await pace.run_step(crowd, in_turn(crowd.groups), target.processes(), RATE, STEP_S)
    crowds.close(crowd.clients[:online])
    await until_quiet(target)
    return {
        "ack p50 ms": step.ack_p50_ms,
        "delivery p99 ms": step.delivery_p99_ms,
        "CPU µs": sum(step.cpu_us.values()),
        "of the node CPU µs": step.cpu_us["node"],
    }


async def members(target: Chat, size: int) -> dict[str, float]:
    """Of a group, all of them online."""
    return await _group_of(target, size, min(size, MOST_SOCKETS))


async def absent(target: Chat, size: int) -> dict[str, float]:
    """Members of a group, 1 % of whom are online."""
    return await _group_of(target, size, max(2, size // 100))


async def conversations(target: Chat, size: int) -> dict[str, float]:
    """Of one person: to list the newest, and to learn that nothing is new in any."""
    crowd = await target.gather(2, [(0, 1)] * size)
    person = crowd.clients[0]
    await crowds.connect([person])
    rest = person.rest()
    await rest.connect()
    person.cursors = dict(list(person.cursors.items())[:MOST_CURSORS])
    await person.catch_up()
    costs = await _cost_of(target, "list", partial(rest.get, f"conversations?limit={PAGE}"))
    costs |= await _cost_of(target, "sync", person.catch_up)
    rest.close()
    crowds.close([person])
    return costs


async def messages(target: Chat, size: int) -> dict[str, float]:
    """In one conversation: the last ones, some in the middle, what a week has brought, and one more."""
    crowd = await target.gather(2)
    (pair,) = crowd.pairs
    speaker = crowd.clients[0]
    speaker.cursors.clear()  # it only speaks
    target.python("-m", "tests.load.long_history", pair.id, str(size))
    await until_quiet(target)
    person = speaker.twin(crowd.tally)
    await crowds.connect([speaker, person])  # not before: nobody's heart beats while the process above is waited for
    rest = person.rest()
    await rest.connect()
    page = f"conversations/{pair.id}/messages?limit={PAGE}"

    async def after_a_week() -> None:
        back = person.twin(crowd.tally)
        back.cursors[pair.id] = max(0, size - WEEK)
        await back.connect()
        await back.catch_up()
        back.close()

    costs = await _cost_of(target, "newest", partial(person.newest, pair.id, PAGE))
    costs |= await _cost_of(target, "newest by REST", partial(rest.get, page))
    costs |= await _cost_of(target, "middle by REST", partial(rest.get, f"{page}&before_seq={size // 2}"))
    costs |= await _cost_of(target, "week", after_a_week, calls=CHANGES)
    costs |= await _cost_of(target, f"{AT_ONCE} sent at once", partial(pace.fill, crowd, pair, AT_ONCE))
    rest.close()
    crowds.close([person, speaker])
    return costs


async def watchers(target: Chat, size: int) -> dict[str, float]:
    """Of one person who comes and goes, until the last of them knows."""
    crowd = await target.gather(size + 1)
    visitor, *watching = crowd.clients
    await crowds.connect(crowd.clients)
    for client in watching:
        client.watch([visitor.user_id])
    await _all_heard(watching, visitor, "online")

    async def come_and_go() -> None:
        visitor.close()
        await _all_heard(watching, visitor, "offline")
        await crowds.enter(visitor)
        await _all_heard(watching, visitor, "online")

    costs = await _cost_of(target, "change", come_and_go, calls=CHANGES)
    crowds.close(crowd.clients)
    return costs


async def _all_heard(watching: Sequence[ChatClient], visitor: ChatClient, status: str) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + 30
    while any(client.statuses.get(visitor.user_id) != status for client in watching):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {len(watching)} watchers heard of it")
        await asyncio.sleep(0.002)


async def nodes(target: Chat, size: int) -> dict[str, float]:
    """That share the work of one core, and are mostly idle."""
    before = cpu_s(target.processes())
    await asyncio.sleep(STEP_S)
    idle = cpu_s(target.processes())
    crowd = await target.gather(PEOPLE)
    await crowds.connect(crowd.clients)
    step = await pace.run_step(crowd, in_turn(crowd.pairs), target.processes(), RATE, STEP_S)
    crowds.close(crowd.clients)
    return {
        "idle CPU %": sum(idle[kind] - before[kind] for kind in idle) / STEP_S * 100,
        "ack p50 ms": step.ack_p50_ms,
        "CPU µs": sum(step.cpu_us.values()),
    }


Curve = Callable[[Chat, int], Coroutine[Any, Any, dict[str, float]]]
CURVES: dict[str, tuple[Curve, Sequence[int]]] = {
    "members": (members, (2, 10, 100, 1_000)),
    "absent": (absent, (100, 1_000, 10_000)),
    "conversations": (conversations, (10, 100, 1_000, 10_000)),
    "messages": (messages, (100, 10_000, 1_000_000, 10_000_000)),
    "watchers": (watchers, (1, 10, 100, 1_000)),
    "nodes": (nodes, (1, 2, 4, 8, 16)),
}


# --- the run ---------------------------------------------------------------------------------------------------------
def draw(target: Chat, name: str, largest: int) -> list[Point]:
    """One start for the whole curve, but where it is the nodes that grow."""
    curve, sizes = CURVES[name]
    points, running = [], 0
    try:
        for size in (size for size in sizes if size <= largest):
            wanted = size if name == "nodes" else 1
            if running != wanted:
                target.stop()
                target.start(wanted)
                running = wanted
                with on_core(DRIVER_CORE):
                    uvloop.run(warm_up(target))
            with on_core(DRIVER_CORE):
                points.append(Point(size, uvloop.run(curve(target, size))))
            print(f"{target.name}, {name} {size}: {points[-1].costs}", flush=True)
    finally:
        target.stop()
    return points


def rows(target: str, name: str, points: Sequence[Point]) -> list[str]:
    """As a Markdown table: a column for each size, and the power by which each cost grows."""
    lines = [f"### {target}: {name}", "", f"| | {' | '.join(f'{point.size:,}' for point in points)} | power |"]
    lines.append(f"|---|{'---|' * len(points)}---|")
    for cost in points[0].costs if points else ():
        values = [(point.size, point.costs[cost]) for point in points]
        shown = " | ".join(spread([value]) for _, value in values)
        lines.append(f"| {cost} | {shown} | {power(values):.2f} |")
    return [*lines, ""]


def main() -> int:
    try:
        stacks = chosen("STACKS", "embedded", ["embedded", "full"])
        names = chosen("CURVES", ",".join(CURVES), list(CURVES))
        largest = int(chosen("LARGEST", "10000000")[0])
    except (Refused, ValueError) as refusal:
        print(f"curves: {refusal}", file=sys.stderr)
        return 2
    allow_many_sockets()
    end_when_told()
    lines = [f"{time.strftime('%Y-%m-%d %H:%M')}, commit {commit_of(BASE_DIR)}, {description()}.", ""]
    for stack in stacks:
        for name in names:
            lines += rows(stack, name, draw(Chat(stack), name, largest))
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    (ARTEFACTS / "curves.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""
What becomes of acks when more is asked than can be done: `python -m tests.load.overload`.

First the highest rate that holds is found (pace.py), unless RATE names it; then messages are sent at multiples of it,
to a new installation each, when they are due and none twice, however the server fares. STACK (embedded, full), NODES
and SECONDS choose.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import uvloop

from tests.load import crowd as crowds
from tests.load import pace
from tests.load.crowd import Crowd
from tests.load.machine import DRIVER_CORE, allow_many_sockets, description, end_when_told, on_core
from tests.load.pace import Plan
from tests.load.tally import percentile
from tests.load.targets import CannotStart, Chat
from tests.load.workloads import in_turn

MULTIPLES = (1.0, 1.5, 2.0, 3.0)
PAIRS = 100
FIRST_RATE, HIGHEST_RATE = 200.0, 50_000.0
CLIMBING_S = 2.0
SETTLE_S = 15.0


@dataclass(frozen=True)
class Figures:
    """Of messages sent at one rate. Latencies are those of acked messages, from when they were due."""

    rate: float
    acked_per_s: float
    refused_per_s: float
    unanswered: int
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return (
            f"{self.rate:9.0f} {self.acked_per_s:9.0f} {self.refused_per_s:9.0f} {self.unanswered:10d} "
            f"{self.p50_ms:8.0f} {self.p99_ms:8.0f}"
        )


HEADING = f"{'asked/s':>9} {'acked/s':>9} {'refused/s':>9} {'unanswered':>10} {'p50 ms':>8} {'p99 ms':>8}"


async def ask(crowd: Crowd, plan: Plan, rate: float, seconds: float) -> Figures:
    step = crowd.tally.begin()
    started = time.monotonic()
    await pace.send(crowd, plan, rate, max(1, int(rate * seconds)))
    deadline = time.monotonic() + SETTLE_S
    while step.answers_missing > 0 and time.monotonic() < deadline:  # noqa: ASYNC110  no single answer is the last
        await asyncio.sleep(0.02)
    took = time.monotonic() - started
    return Figures(
        rate,
        len(step.ack_latencies) / took,
        step.refused / took,
        step.answers_missing,
        percentile(step.ack_latencies, 50) * 1000,
        percentile(step.ack_latencies, 99) * 1000,
    )


async def find_rate(target: Chat) -> float:
    crowd = await _crowd(target)
    steps = await pace.climb(
        crowd, in_turn(crowd.pairs), target.processes(), first=FIRST_RATE, highest=HIGHEST_RATE, seconds=CLIMBING_S
    )
    crowds.close(crowd.clients)
    best = pace.best(steps)
    if best is None:
        raise CannotStart("no rate held")
    print(f"{best.rate:.0f} messages per second hold, with a 99th percentile of {best.p99_ms:.0f} ms", flush=True)
    return best.rate


async def measure(target: Chat, rate: float, seconds: float) -> Figures:
    crowd = await _crowd(target)
    plan = in_turn(crowd.pairs)
    await ask(crowd, plan, FIRST_RATE, CLIMBING_S)  # what is slow the first time
    figures = await ask(crowd, plan, rate, seconds)
    crowds.close(crowd.clients)
    print(figures, flush=True)
    return figures


async def _crowd(target: Chat) -> Crowd:
    crowd = await target.gather(2 * PAIRS)
    await crowds.connect(crowd.clients)
    return crowd


T = TypeVar("T")


def on_a_new_one(stack: str, nodes: int, work: Callable[[Chat], Coroutine[Any, Any, T]]) -> T:
    """On an installation of its own: a history that grows makes each message dearer."""
    target = Chat(stack)
    try:
        target.start(nodes)
        with on_core(DRIVER_CORE):
            return uvloop.run(work(target))
    finally:
        target.stop()


def main() -> int:
    stack, nodes = os.environ.get("STACK", "embedded"), int(os.environ.get("NODES", "1"))
    rate, seconds = float(os.environ.get("RATE", "0")), float(os.environ.get("SECONDS", "8"))
    allow_many_sockets()
    end_when_told()
    print(f"{time.strftime('%Y-%m-%d')}, {stack} stack, {nodes} node(s), {description()}", flush=True)
    try:
        rate = rate or on_a_new_one(stack, nodes, find_rate)
        print(HEADING)
        figures = [
            on_a_new_one(stack, nodes, partial(measure, rate=multiple * rate, seconds=seconds))
            for multiple in MULTIPLES
        ]
    except CannotStart as reason:
        print(f"overload: {reason}", file=sys.stderr)
        return 2
    most = max(each.acked_per_s for each in figures)
    last = figures[-1]
    print(f"at {MULTIPLES[-1]:.0f} times: {last.acked_per_s / most:.0%} of the most, 99 of 100 in {last.p99_ms:.0f} ms")
    return 0 if last.acked_per_s > 0.8 * most and last.p99_ms < 1_000 else 1


if __name__ == "__main__":
    sys.exit(main())

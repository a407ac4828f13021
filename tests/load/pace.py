"""
Sending when a message is due, however the server fares, and finding the highest rate that holds.

A rate holds when every message was acked and delivered, none was refused, and of a hundred 99 were there, from when
they were due, within a tenth of a second.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.load.crowd import Client, Conversation, Crowd
from tests.load.machine import cpu_s
from tests.load.tally import Step, percentile

P99_S = 0.1
FINE_ENOUGH = 1.1  # between a rate that holds and one that does not
AT_ONCE = 200  # messages under way where time does not matter
TRIES = 2  # of a rate, before it is known not to hold
HOPELESS_S = 1.0  # so many seconds' messages unanswered: what is known by then need not be waited for
SETTLE_S = 15.0  # for what is under way when a step ends
CONTENT = (
    "The quick brown fox jumps over the lazy dog, and then it does so once more, as foxes do when nobody looks. 0123"
)

Plan = Iterator[tuple[int, Conversation]]  # who speaks next, and where


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One step: so many messages per second for so long."""

    rate: float
    seconds: float
    sent: int
    deliveries: int
    refused: int
    unanswered: int
    undelivered: int
    ack_p50_ms: float  # latencies; where no acks are sent, 0
    ack_p99_ms: float
    delivery_p50_ms: float
    delivery_p99_ms: float
    lag_p99_ms: float  # how late the driver itself was
    driver_cpu: float  # of its core, 0 to 1
    cpu_us: dict[str, float]  # per message, by kind of process

    @property
    def p50_ms(self) -> float:
        return max(self.ack_p50_ms, self.delivery_p50_ms)

    @property
    def p99_ms(self) -> float:
        return max(self.ack_p99_ms, self.delivery_p99_ms)

    @property
    def lost(self) -> int:
        return self.unanswered + self.undelivered

    @property
    def holds(self) -> bool:
        return self.p99_ms < P99_S * 1000 and not self.lost and not self.refused


def next_rate(held: float | None, broke: float | None, first: float, growth: float = 2.0) -> float | None:
    """The rate to try next, or None when it is known well enough: higher until one breaks, then halved in between."""
    if broke is None:
        return first if held is None else held * growth
    if held is None:
        return broke / 2 if broke > first / 8 else None
    return (held * broke) ** 0.5 if broke / held > FINE_ENOUGH else None


async def climb(
    crowd: Crowd[Any],
    plan: Plan,
    processes: dict[str, list[int]],
    *,
    first: float,
    growth: float = 2.0,
    highest: float,
    seconds: float,
) -> list[Measured]:
    """Step after step, to the highest rate that holds; all steps, in the order they were taken."""
    steps: list[Measured] = []
    held = broke = None
    await run_step(crowd, plan, processes, first, seconds)  # what is slow the first time
    while (rate := next_rate(held, broke, first, growth)) is not None and rate <= highest:
        for _ in range(TRIES):
            steps.append(step := await run_step(crowd, plan, processes, rate, seconds))
            if step.holds:
                break
        if step.holds:
            held = rate
        else:
            broke = rate
    return steps


def best(steps: list[Measured]) -> Measured | None:
    return max((step for step in steps if step.holds), key=lambda step: step.rate, default=None)


async def run_step(
    crowd: Crowd[Any], plan: Plan, processes: dict[str, list[int]], rate: float, seconds: float
) -> Measured:
    step = crowd.tally.begin()
    gc.collect()
    gc.disable()
    try:
        before, own_before = cpu_s(processes), time.process_time()
        started = time.perf_counter()
        deliveries = await send(crowd, plan, rate, max(1, int(rate * seconds)), give_up=True)
        await _settled(step)
        took, own = time.perf_counter() - started, time.process_time() - own_before
        after = cpu_s(processes)
    finally:
        gc.enable()
    used = {kind: after[kind] - before.get(kind, 0.0) for kind in after}
    return _measured(step, rate, seconds, deliveries, used, own / took)


async def send(crowd: Crowd[Any], plan: Plan, rate: float, number: int, *, give_up: bool = False) -> int:
    """So many messages, each when it is due; how many deliveries they ought to make."""
    started, sent, deliveries = time.monotonic(), 0, 0  # and not the loop's time, which only has milliseconds
    clients: list[Client] = list(crowd.clients)
    while sent < number:
        now = time.monotonic()
        if give_up and crowd.tally.step.messages_missing > HOPELESS_S * rate + AT_ONCE:
            break
        while sent < number and started + sent / rate <= now:
            speaker, conversation = next(plan)
            client = clients[speaker]
            client_msg_id = crowd.tally.next_id(
                started + sent / rate,
                time.monotonic(),
                deliveries=conversation.deliveries,
                answers=1 if client.acks else 0,
            )
            client.send(conversation.id, client_msg_id, CONTENT)
            sent, deliveries = sent + 1, deliveries + conversation.deliveries
        await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
    return deliveries


async def fill(crowd: Crowd[Any], conversation: Conversation, messages: int) -> None:
    """So many messages of its first member, as fast as the server takes them. Raises TimeoutError."""
    client: Client = crowd.clients[conversation.members[0]]
    for first in range(0, messages, AT_ONCE):
        step, number = crowd.tally.begin(), min(AT_ONCE, messages - first)
        for _ in range(number):
            now = time.monotonic()
            # An ack says enough; where there is none, it has to arrive.
            awaited = {"deliveries": 0, "answers": 1} if client.acks else {"deliveries": 1, "answers": 0}
            client.send(conversation.id, crowd.tally.next_id(now, now, **awaited), CONTENT)
        if not await _settled(step):
            raise TimeoutError(
                f"{step.answers_missing + step.deliveries_missing} of {number} messages did not come through"
            )


async def _settled(step: Step) -> bool:
    """Whether all of it comes through, waited for no longer than it takes."""
    deadline = time.monotonic() + SETTLE_S
    while not step.is_complete and time.monotonic() < deadline:  # noqa: ASYNC110  (the driver has to be cheap)
        await asyncio.sleep(0.01)
    return step.is_complete


def _measured(
    step: Step, rate: float, seconds: float, deliveries: int, used: dict[str, float], driver_cpu: float
) -> Measured:
    sent = len(step.due)
    return Measured(
        rate=rate,
        seconds=seconds,
        sent=sent,
        deliveries=deliveries,
        refused=step.refused,
        unanswered=step.answers_missing,
        undelivered=step.deliveries_missing,
        ack_p50_ms=percentile(step.ack_latencies, 50) * 1000,
        ack_p99_ms=percentile(step.ack_latencies, 99) * 1000,
        delivery_p50_ms=percentile(step.delivery_latencies, 50) * 1000,
        delivery_p99_ms=percentile(step.delivery_latencies, 99) * 1000,
        lag_p99_ms=percentile(step.lags, 99) * 1000,
        driver_cpu=driver_cpu,
        cpu_us={kind: seconds_used / sent * 1e6 for kind, seconds_used in used.items()},
    )

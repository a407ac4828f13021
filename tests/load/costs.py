"""
What each thing costs, for planning: `python -m tests.load.costs` prints the figures of apps/conversations/capacity.py.

One server of two nodes on the full stack and one core, at rates that strain nothing: what an idle second costs is taken
off, and what is left belongs to what was done. STACKS=embedded tries it without Cassandra. Takes some minutes.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import uvloop

from tests.load import crowd as crowds
from tests.load import pace
from tests.load.bench import warm_up
from tests.load.chat import ChatClient
from tests.load.crowd import Conversation, Crowd
from tests.load.machine import (
    DRIVER_CORE,
    allow_many_sockets,
    cpu_s,
    description,
    end_when_told,
    memory_bytes,
    on_core,
)
from tests.load.options import Refused, chosen
from tests.load.report import commit_of
from tests.load.tally import Tally
from tests.load.targets import BASE_DIR, CannotStart, Chat
from tests.load.workloads import in_turn, until_quiet

NODES = 2
PAIRS, DIRECT_RATE, GROUP, GROUP_RATE, TALK_S = 100, 200, 100, 20, 8
IDLE_S = 6
SITTING, SITTING_S, WATCHED = 1_000, 31, 20  # a heartbeat of each, and two renewals
OPENS, FIRST_PUSHES, PUSHES, PUSH_RATE = 300, 50, 150, 20
STORED, STORED_BYTES = 60_000, 111  # messages, and of the text of one
AT_ONCE = 8

Spent = dict[str, float]  # CPU seconds, by kind of process


class Meter:
    """CPU beyond what is used when nobody does anything."""

    def __init__(self, target: Chat) -> None:
        self._target = target
        self._idle: Spent = {}

    async def rest(self) -> None:
        before = cpu_s(self._target.processes())
        await asyncio.sleep(IDLE_S)
        after = cpu_s(self._target.processes())
        self._idle = {kind: (after[kind] - before[kind]) / IDLE_S for kind in after}

    async def of(self, work: Awaitable[object], per: float) -> Spent:
        """µs for each of so many."""
        before, began = cpu_s(self._target.processes()), time.monotonic()
        await work
        took, after = time.monotonic() - began, cpu_s(self._target.processes())
        return {kind: (after[kind] - before[kind] - self._idle.get(kind, 0) * took) / per * 1e6 for kind in after}


async def _one_after_the_other(work: Iterable[Awaitable[object]]) -> None:
    """A few at a time."""
    waiting = iter(work)

    async def some() -> None:
        for each in waiting:
            await each

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


# --- talking ---------------------------------------------------------------------------------------------------------
async def talk(target: Chat, meter: Meter) -> tuple[dict[str, float], Crowd[ChatClient]]:
    """In pairs whose two are on one node or on two, and in a group."""
    crowd = await target.gather(2 * PAIRS, [range(GROUP)])
    await crowds.connect(crowd.clients)
    together: list[Conversation] = []
    apart: list[Conversation] = []
    for pair in crowd.pairs:
        one, other = (crowd.clients[index].node for index in pair.members)
        (together if one == other else apart).append(pair)
    near = await _say(target, meter, crowd, together, DIRECT_RATE)
    far = await _say(target, meter, crowd, apart, DIRECT_RATE)
    group = await _say(target, meter, crowd, crowd.groups, GROUP_RATE)
    crowds.close(crowd.clients)
    return {
        "message_node": near["node"],
        "message_cassandra": near.get("cassandra", 0),
        "frame_node": far["node"] - near["node"],
        "delivery_node": (group["node"] - near["node"]) / (GROUP - 2),
    }, crowd


async def _say(
    target: Chat, meter: Meter, crowd: Crowd[ChatClient], where: Sequence[Conversation], rate: float
) -> Spent:
    plan = in_turn(where)
    await pace.run_step(crowd, plan, target.processes(), rate, 2)  # what is slow the first time
    return await meter.of(pace.run_step(crowd, plan, target.processes(), rate, TALK_S), rate * TALK_S)


# --- coming, reading, sitting there ----------------------------------------------------------------------------------
async def open_app(meter: Meter, crowd: Crowd[ChatClient]) -> dict[str, float]:
    people = cycle(crowd.clients)
    user_ids = [client.user_id for client in crowd.clients[:WATCHED]]

    async def once() -> None:
        before = next(people)
        client = before.twin(Tally())
        client.cursors = {conversation: max(0, seq - 5) for conversation, seq in before.cursors.items()}
        await client.connect()
        client.watch(user_ids)
        await client.catch_up()
        client.close()

    await _one_after_the_other(once() for _ in range(OPENS))  # what is slow the first time
    spent = await meter.of(_one_after_the_other(once() for _ in range(OPENS)), OPENS)
    return {
        "open_node": spent["node"],
        "open_cassandra": spent.get("cassandra", 0),
        "open_postgresql": spent.get("postgresql", 0),
    }


async def mark_read(target: Chat, meter: Meter, crowd: Crowd[ChatClient]) -> dict[str, float]:
    async with _rest(target) as rest:

        async def read(client: ChatClient, conversation: str, seq: int) -> None:
            answer = await rest.put(f"conversations/{conversation}/read", json={"seq": seq}, headers=_token(client))
            answer.raise_for_status()

        def up_to(*seqs: int) -> list[Awaitable[None]]:
            return [read(crowd.clients[pair.members[0]], pair.id, seq) for seq in seqs for pair in crowd.pairs]

        await _one_after_the_other(up_to(1, 2, 3))  # what is slow the first time
        spent = await meter.of(_one_after_the_other(up_to(4, 5, 6)), 3 * PAIRS)
    return {
        "read_node": spent["node"],
        "read_cassandra": spent.get("cassandra", 0),
        "read_postgresql": spent.get("postgresql", 0),
    }


def _rest(target: Chat) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{target.port}/api/v1/", timeout=30)


def _token(client: ChatClient) -> dict[str, str]:
    return {"Authorization": f"Bearer {client._token}"}


async def sit(target: Chat, meter: Meter) -> dict[str, float]:
    """Connected, and nothing more; each wants to hear of some others."""
    crowd = await target.gather(SITTING)
    memory = memory_bytes(target.servers())
    await crowds.connect(crowd.clients)
    user_ids = [client.user_id for client in crowd.clients]
    for index, client in enumerate(crowd.clients):
        client.watch(user_ids[index - WATCHED : index] or user_ids[:WATCHED])
    await until_quiet(target)
    spent = await meter.of(asyncio.sleep(SITTING_S), SITTING * SITTING_S)
    grown = memory_bytes(target.servers()) - memory
    crowds.close(crowd.clients)
    await until_quiet(target)
    return {
        "idle_node": spent["node"],
        "idle_postgresql": spent.get("postgresql", 0),
        "connection_bytes": grown / SITTING,
    }


# --- pushes ----------------------------------------------------------------------------------------------------------
async def push(target: Chat, meter: Meter) -> dict[str, float]:
    """One message each to people who are nowhere and have a phone; the provider is the console."""
    crowd = await target.gather(2 * (FIRST_PUSHES + PUSHES))
    speakers = [crowd.clients[pair.members[0]] for pair in crowd.pairs]
    absent = [crowd.clients[pair.members[1]] for pair in crowd.pairs]
    await crowds.connect(speakers)
    async with _rest(target) as rest:
        for number, client in enumerate(absent):
            device = {"platform": "fcm", "token": f"phone-{number}"}
            answer = await rest.post("users/me/devices", json=device, headers=_token(client))
            answer.raise_for_status()
    await until_quiet(target)
    alone = [replace(pair, members=pair.members[:1], deliveries=1) for pair in crowd.pairs]

    plan = in_turn(alone)

    async def say(pushes: int) -> None:
        await pace.run_step(crowd, plan, target.processes(), PUSH_RATE, pushes / PUSH_RATE)
        await until_quiet(target)

    await say(FIRST_PUSHES)  # what is slow the first time
    spent = await meter.of(say(PUSHES), PUSHES)
    crowds.close(speakers)
    return {
        "push_worker": spent["worker"],
        "push_postgresql": spent.get("postgresql", 0),
        "push_rabbitmq": spent.get("rabbitmq", 0),
    }


# --- the run ---------------------------------------------------------------------------------------------------------
async def measure(target: Chat, meter: Meter, show: Callable[[dict[str, float]], None]) -> None:
    await warm_up(target)
    await until_quiet(target)
    await meter.rest()
    show(await sit(target, meter))  # first: a minute after a message, workers look at its conversation once more
    talked, crowd = await talk(target, meter)
    show(talked)
    await until_quiet(target)
    show(await open_app(meter, crowd))
    show(await mark_read(target, meter, crowd))
    await until_quiet(target)
    await meter.rest()
    show(await push(target, meter))
    pair, sender = crowd.pairs[0], crowd.clients[crowd.pairs[0].members[0]]
    stored = str(STORED), str(STORED_BYTES)
    show(json.loads(target.python("-m", "tests.load.stores", pair.id, sender.user_id, *stored)))


def stored_bytes(data: Path) -> float:
    """Of a message on disk, besides its text; once Cassandra has stopped, and all of it is in its tables."""
    files = [file for file in data.glob("services/cassandra/data/data/*/message_log-*/*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / STORED - STORED_BYTES


def main() -> int:
    try:
        (stack,) = chosen("STACKS", "full", ["embedded", "full"])
    except (Refused, ValueError) as refusal:
        print(f"costs: {refusal}", file=sys.stderr)
        return 2
    allow_many_sockets()
    end_when_told()
    found: dict[str, Any] = {}

    def show(figures: dict[str, float]) -> None:
        found.update(figures)
        print(figures, file=sys.stderr, flush=True)

    target = Chat(stack)
    try:
        target.start(NODES)
        with on_core(DRIVER_CORE):
            uvloop.run(measure(target, Meter(target), show))
        target.end()
        show({"stored_bytes": stored_bytes(target.data)})
    except CannotStart as reason:
        print(f"costs: {reason}", file=sys.stderr)
        return 2
    finally:
        target.stop()
    print(f"# {time.strftime('%Y-%m-%d')}, commit {commit_of(BASE_DIR)}, {stack} stack, {description()}")
    print("\n".join(f"{name} = {value:.3g}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""
The registry on a real store, on the simulated one, and as a few dicts say that it should be: always the same answers.

The clock is the machine's. Keys that expire by themselves are made to by as much as it moves.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from apps.presence import registry
from apps.presence.pipe import Command, Pipe, RedisWire
from apps.presence.registry import CLAIM_S, NodeInfo, Registry
from apps.presence.status import ENTRY_TTL_S, LEASE_TTL_S
from tests.simulation.redis import Redis

NODES = ["node.node-1.a", "node.node-2.b"]
USERS = ["ada", "bob"]
EPOCH_MS = 1_767_225_600_000

some_node = st.sampled_from(NODES)
some_users = st.lists(st.sampled_from(USERS), unique=True, max_size=2)


class SimulatedPipe:
    """What the registry needs of a Pipe."""

    def __init__(self, store: Redis) -> None:
        self._store = store

    async def execute(self, *command: Any) -> Any:
        return self._store.carry_out(command)


class Model:
    """What is promised, without a store."""

    def __init__(self) -> None:
        self.entries: defaultdict[str, dict[str, int]] = defaultdict(dict)  # user -> node -> until
        self.held: defaultdict[str, set[str]] = defaultdict(set)
        self.leases: dict[str, tuple[int, int]] = {}  # node -> count, until
        self.nodes: dict[str, int] = {}  # node -> end of the lease, or of the claim

    def nodes_of(self, user: str, now: int) -> set[str]:
        return {node for node, until in self.entries[user].items() if until > now}

    def arrive(self, node: str, users: list[str], now: int) -> set[str]:
        came = {user for user in users if not self.nodes_of(user, now)}
        for user in users:
            self.entries[user][node] = now + ENTRY_TTL_S * 1_000
            self.held[node].add(user)
        return came

    def depart(self, node: str, users: list[str], now: int) -> set[str]:
        newest = now + ENTRY_TTL_S * 1_000
        leaving = [user for user in users if self.entries[user].get(node, 0) <= newest]
        known = {user for user in leaving if self.entries[user].pop(node, None) is not None}
        self.held[node] -= set(leaving)
        return {user for user in known if not self.nodes_of(user, now)}

    def renew(self, node: str, count: int, now: int) -> bool:
        before, until = self.leases.get(node, (-1, 0))
        self.leases[node] = count, now + LEASE_TTL_S * 1_000
        self.nodes[node] = now + LEASE_TTL_S * 1_000
        return (before if until > now else -1) == count - 1

    def claim_dead(self, now: int) -> str | None:
        dead = min((node for node, until in self.nodes.items() if until <= now), key=self._by_end, default=None)
        if dead is not None:
            self.nodes[dead] = now + CLAIM_S * 1_000
        return dead

    def _by_end(self, node: str) -> tuple[int, str]:
        return self.nodes[node], node

    def end(self, node: str) -> None:
        self.leases.pop(node, None)
        self.nodes.pop(node, None)


class Machine(RuleBasedStateMachine):
    url: str
    set_clock: Callable[[Callable[[], int]], None]

    def __init__(self) -> None:
        super().__init__()
        self.now = EPOCH_MS
        self.set_clock(lambda: self.now)
        self.loop = asyncio.new_event_loop()
        self.model = Model()
        self.simulated = Redis(lambda: self.now)
        self.store = redis.Redis.from_url(self.url)
        self.pipe = Pipe(RedisWire(self.url))
        self.registries = [Registry(self.pipe), Registry(SimulatedPipe(self.simulated))]  # type: ignore[arg-type]
        self.counts = dict.fromkeys(NODES, 0)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.pipe.close())
        self.loop.close()
        self.store.close()

    def same(self, question: Callable[[Registry], Awaitable[Any]], expected: Any) -> None:
        for each in self.registries:
            answer = self.loop.run_until_complete(question(each))  # type: ignore[arg-type]
            assert answer == expected

    # --- what may happen ---------------------------------------------------------------------------------------------
    @initialize()
    def everything_is_empty(self) -> None:
        self.store.flushall()

    @rule(node=some_node, users=some_users)
    def users_arrive(self, node: str, users: list[str]) -> None:
        self.same(lambda each: each.online.arrive(node, users), self.model.arrive(node, users, self.now))

    @rule(node=some_node, users=some_users, late_s=st.sampled_from([0, 2]))
    def users_depart(self, node: str, users: list[str], late_s: int) -> None:
        """Asked a while ago, perhaps."""
        now, self.now = self.now, self.now - late_s * 1_000
        self.same(lambda each: each.online.depart(node, users), self.model.depart(node, users, self.now))
        self.now = now

    @rule(node=some_node, skipped=st.sampled_from([0, 0, 0, 1]))
    def a_node_renews_its_lease(self, node: str, skipped: int) -> None:
        self.counts[node] = count = self.counts[node] + 1 + skipped
        info = NodeInfo(name=node, boot="a", host="here", pid=1, started_at="", connections=0, users=0)
        self.same(lambda each: each.renew_lease(node, count, info), self.model.renew(node, count, self.now))

    @rule()
    def somebody_looks_for_the_dead(self) -> None:
        self.same(lambda each: each.claim_dead(), self.model.claim_dead(self.now))

    @rule(node=some_node)
    def a_lease_is_ended(self, node: str) -> None:
        self.same(lambda each: each.end_lease(node), self.model.end(node))

    @rule(seconds=st.sampled_from([1, 5, LEASE_TTL_S, CLAIM_S, ENTRY_TTL_S]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * 1_000
        for key in self.store.scan_iter():
            left = self.store.pttl(key)
            if left > 0:
                self.store.pexpire(key, left - seconds * 1_000)
        for user, entries in self.model.entries.items():
            if not self.model.nodes_of(user, self.now):  # their key has expired as a whole
                entries.clear()

    @rule()
    def the_store_is_emptied(self) -> None:
        self.store.flushall()
        self.simulated.flush()
        self.model = Model()

    @rule()
    def the_store_forgets_the_scripts(self) -> None:
        self.store.script_flush()
        self.simulated.forget_scripts()

    # --- what everybody has to agree on ------------------------------------------------------------------------------
    @invariant()
    def everybody_knows_who_is_where(self) -> None:
        async def where(each: Registry) -> dict[str, set[str]]:
            return {user: set(nodes) for user, nodes in (await each.online.nodes_of(USERS)).items()}

        self.same(where, {user: self.model.nodes_of(user, self.now) for user in USERS})

    @invariant()
    def everybody_knows_who_lives_and_what_they_hold(self) -> None:
        async def living(each: Registry) -> tuple[set[str], list[set[str]]]:
            return set(await each.live_nodes()), [await each.online.held_by(node) for node in NODES]

        lives = {node for node, until in self.model.nodes.items() if until >= self.now}
        self.same(living, (lives, [self.model.held[node] for node in NODES]))


def test_the_registry_keeps_what_it_promises(embedded_valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_clock(clock: Callable[[], int]) -> None:
        monkeypatch.setattr(registry, "now_ms", clock)

    class OnThisStore(Machine):
        url = embedded_valkey

    OnThisStore.set_clock = staticmethod(set_clock)
    run_state_machine_as_test(
        OnThisStore,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


# --- sharing a question ----------------------------------------------------------------------------------------------
class SlowWire:
    """Answers each group of commands when it is let."""

    def __init__(self) -> None:
        self.groups: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []

    async def carry_out(self, commands: Sequence[Command]) -> list[Any]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.groups.append((commands, answer))
        return await answer

    async def close(self) -> None: ...


async def until_idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_asks_for_the_same_people_before_the_question_has_left_shares_its_answer() -> None:
    wire, people = SlowWire(), {uuid4(): "ada", uuid4(): "bob"}
    here = Registry(Pipe(wire))

    both = asyncio.gather(here.holders(people), here.holders(people))
    await until_idle()
    ((commands, answer),) = wire.groups
    answer.set_result([[[b"node-1"], [b"node-1", b"node-2"]]])

    assert len(commands) == 1
    assert await both == [{"node-1": list(people), "node-2": list(people)[1:]}] * 2


async def test_who_asks_once_the_question_has_left_has_a_newer_answer() -> None:
    wire, people = SlowWire(), {uuid4(): "ada"}
    here = Registry(Pipe(wire))

    before = asyncio.create_task(here.holders(people))
    await until_idle()
    after = asyncio.create_task(here.holders(people))  # somebody may have arrived since
    await until_idle()
    wire.groups[0][1].set_result([[[]]])
    await until_idle()
    wire.groups[1][1].set_result([[[b"node-2"]]])

    assert await before == {}
    assert await after == {"node-2": list(people)}

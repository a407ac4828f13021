"""Limits that hold over all nodes, and cost those below a quarter of them nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from apps.conversations.throttle import PARTS, WINDOW_S, Count, Limit, Throttle

LIMIT = Limit("test", 40)


def taken(count: Count, number: int, now: float, amount: int = 10) -> int:
    return sum(count.take(amount, now) == 0.0 for _ in range(number))


def test_so_many_and_no_more() -> None:
    assert taken(Count(0.0), 25, 5.0) == 10


def test_who_waits_as_long_as_they_are_told_may_go_on() -> None:
    count = Count(0.0)
    taken(count, 10, 3.0)

    wait_s = count.take(10, 4.0)

    assert 0 < wait_s <= WINDOW_S
    assert count.take(10, 4.0 + wait_s + 0.01) == 0.0


def test_what_was_said_in_the_window_before_counts_by_what_is_left_of_it() -> None:
    count = Count(0.0)
    taken(count, 10, 9.0)

    assert taken(count, 10, 15.0) == 5


def test_an_idle_time_forgets_everything() -> None:
    count = Count(0.0)
    taken(count, 10, 1.0)

    assert taken(count, 25, 30.0) == 10
    assert count.unsettled == 10


def test_a_steady_pace_below_the_limit_is_never_refused() -> None:
    count = Count(0.0)

    assert sum(count.take(10, tick * 1.1) == 0.0 for tick in range(200)) == 200


@pytest.fixture
async def nodes(valkey_url: str, settings: Any) -> AsyncIterator[list[Throttle]]:
    settings.REDIS_URL = valkey_url
    redis.Redis.from_url(valkey_url).flushall()
    three = [Throttle() for _ in range(3)]
    yield three
    for each in three:
        await each.close()


async def test_several_nodes_hold_one_limit_within_the_bound_that_is_told(nodes: list[Throttle]) -> None:
    let_through = 0
    for _ in range(LIMIT.amount):
        for node in nodes:
            let_through += await node.take(LIMIT, "ada") == 0.0

    assert LIMIT.amount <= let_through <= LIMIT.amount * (len(nodes) + 5) / 4
    assert await nodes[0].take(LIMIT, "bob") == 0.0


async def test_one_node_lets_through_exactly_the_limit(nodes: list[Throttle]) -> None:
    assert sum([await nodes[0].take(LIMIT, "ada") == 0.0 for _ in range(3 * LIMIT.amount)]) == LIMIT.amount


async def test_below_a_quarter_nobody_asks_redis(nodes: list[Throttle], valkey_url: str) -> None:
    for _ in range(LIMIT.amount // PARTS - 1):
        await nodes[0].take(LIMIT, "ada")

    assert redis.Redis.from_url(valkey_url).keys("limit*") == []
    await nodes[0].take(LIMIT, "ada")
    assert redis.Redis.from_url(valkey_url).keys("limit*") != []


async def test_while_redis_is_away_each_node_holds_the_limit_alone(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    node = Throttle()

    assert sum([await node.take(LIMIT, "ada") == 0.0 for _ in range(3 * LIMIT.amount)]) == LIMIT.amount
    await node.close()


async def test_the_counts_are_bounded(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.conversations.throttle.MAX_COUNTS", 5)
    node = Throttle()
    for number in range(20):
        await node.take(LIMIT, str(number))

    assert len(node._counts) == 5
    await node.close()

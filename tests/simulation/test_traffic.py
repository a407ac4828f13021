"""How the traffic between nodes grows with their number: the shape of it, of which docs/capacity.md has the figures."""

import json
import subprocess
import sys

import pytest

from apps.conversations.capacity import nodes_told

Costs = dict[str, float]
Traffic = dict[int, dict[str, Costs]]  # by the number of nodes, and by what was done


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    """In a process of its own: it replaces clock, drivers and SQL."""
    command = [sys.executable, "-m", "tests.simulation.traffic", "--small", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    return {int(nodes): costs for nodes, costs in json.loads(done.stdout).items()}


def of(traffic: Traffic, what: str) -> dict[int, Costs]:
    return {nodes: next(costs for name, costs in all_.items() if what in name) for nodes, all_ in traffic.items()}


def test_a_direct_message_is_at_most_one_frame_and_one_beat_however_many_nodes_there_are(traffic: Traffic) -> None:
    for nodes, costs in of(traffic, "direct, 50 ").items():
        assert costs["frames per message"] <= 1
        assert costs["beats per message"] <= costs["frames per message"]
        assert costs["Redis commands per message"] <= 4
        assert (costs["frames per message"] > 0) == (nodes > 1)


def test_beats_grow_with_the_nodes_that_were_told_something_and_not_with_the_messages(traffic: Traffic) -> None:
    slow, fast = (of(traffic, f"direct, {rate} ")[4]["beats per message"] * rate for rate in (10, 50))
    assert slow <= fast <= 3  # of each second: to each of the other nodes at most one


def test_an_idle_node_costs_the_bus_its_own_beat_and_nothing_of_the_others(traffic: Traffic) -> None:
    for costs in of(traffic, "nobody says anything").values():
        assert costs["bus messages per node and second"] == pytest.approx(1, abs=0.1)
        assert costs["Redis commands per node and second"] < 4


def test_a_message_to_a_group_is_one_frame_for_each_node_with_a_member(traffic: Traffic) -> None:
    for size in ("10", "1,000"):
        for nodes, costs in of(traffic, f"group of {size}, ").items():
            assert costs["frames per message"] <= min(nodes - 1, int(size.replace(",", "")) - 1)
            assert costs["membership rows read from PostgreSQL in 30 s"] == 0


def test_past_a_thousand_members_nobody_is_looked_up_but_every_node_reads_who_they_are(traffic: Traffic) -> None:
    for nodes, costs in of(traffic, "group of 1,100, ").items():
        assert costs["frames per message"] == nodes
        assert costs["registry keys looked up per message"] == 0
        assert costs["membership rows read from PostgreSQL in 30 s"] == nodes * 1_100


def test_a_change_of_status_goes_once_to_each_node_that_watches(traffic: Traffic) -> None:
    for nodes, costs in of(traffic, "somebody comes or goes").items():
        assert costs["frames per change"] <= nodes
        assert costs["beats per change"] <= costs["frames per change"]


def test_nothing_is_taken_for_lost_where_nothing_is(traffic: Traffic) -> None:
    for costs in (*of(traffic, "direct, 10 ").values(), *of(traffic, "direct, 50 ").values()):
        assert costs["resyncs, though nothing was lost"] == 0


def test_so_many_nodes_are_told_as_capacity_reckons_with(traffic: Traffic) -> None:
    for nodes, costs in of(traffic, "direct, 50 ").items():
        assert costs["frames per message"] == pytest.approx(nodes_told(1, nodes), abs=0.15)
    for nodes, costs in of(traffic, "group of 10, ").items():
        assert costs["frames per message"] == pytest.approx(nodes_told(9, nodes), abs=1.5)

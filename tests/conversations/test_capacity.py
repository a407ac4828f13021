"""What so many people need follows from what was measured; and docs/capacity.md says what the command prints."""

import json
from io import StringIO
from pathlib import Path
from random import Random

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from msgspec.structs import replace

from apps.conversations.capacity import (
    LEAST_NODES,
    SOCKETS_PER_NODE,
    Costs,
    Load,
    NoNumberOfNodes,
    nodes_told,
    plan,
    walls,
)
from apps.conversations.management.commands.capacity import BEGIN, END, USUAL, tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "capacity.md"
TOWN = Load(users=1_000_000)


def told(*arguments: str) -> str:
    out = StringIO()
    call_command("capacity", *arguments, stdout=out)
    return out.getvalue()


# --- the arithmetic --------------------------------------------------------------------------------------------------
def test_a_hundred_times_the_people_need_about_a_hundred_times_as_much() -> None:
    one, many = plan(TOWN, Costs()), plan(replace(TOWN, users=100_000_000), Costs())
    for name in ("connections", "messages", "deliveries", "pushes", "redis_memory_bytes", "cassandra_disk_bytes"):
        assert getattr(many, name) == pytest.approx(100 * getattr(one, name))
    # What the nodes tell each other grows faster, until each of a group is on a node of their own.
    assert 100 * one.frames < many.frames < 200 * one.frames
    assert 100 * one.nodes <= many.nodes < 200 * one.nodes


def test_a_little_town_gets_what_may_lose_one_of_each() -> None:
    village = plan(Load(users=10), Costs())
    assert (village.nodes, village.cassandra_machines, village.workers) == (LEAST_NODES, 3, 1)
    assert walls(village) == []


def test_the_peak_and_the_headroom_are_what_the_cores_are_planned_for() -> None:
    calm, busy = plan(replace(TOWN, peak=1), Costs()), plan(replace(TOWN, peak=8), Costs())
    assert busy.cassandra_cores == pytest.approx(8 * calm.cassandra_cores)
    assert busy.cassandra_disk_bytes == calm.cassandra_disk_bytes
    half, full = (plan(replace(TOWN, messages_per_day=400, headroom=share), Costs()) for share in (0.5, 1.0))
    assert full.cassandra_cores == pytest.approx(half.cassandra_cores / 2)
    assert full.nodes < half.nodes


def test_who_only_sits_there_needs_nodes_for_their_sockets() -> None:
    assert settings.CHAT_SOCKETS_PER_NODE == SOCKETS_PER_NODE
    quiet = replace(TOWN, messages_per_day=0, opens_per_day=0, watched=0)
    free = Costs(idle_node=0)
    assert plan(quiet, free).nodes == 200_000 // SOCKETS_PER_NODE
    assert plan(quiet, free).node_memory_bytes == pytest.approx(SOCKETS_PER_NODE * free.connection_bytes)


def test_each_measured_cost_counts() -> None:
    before = plan(TOWN, Costs())
    for name in Costs.__struct_fields__:
        dearer = replace(Costs(), **{name: getattr(Costs(), name) * 100})
        assert plan(TOWN, dearer) != before, name


# --- between nodes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("members", "nodes"), [(1, 10), (10, 10), (99, 40), (1_000, 16)])
def test_so_many_nodes_are_told_as_chance_puts_people_on(members: int, nodes: int) -> None:
    chance = Random(7)
    tries = [len({chance.randrange(nodes) for _ in range(members)} - {0}) for _ in range(1_000)]
    assert nodes_told(members, nodes) == pytest.approx(sum(tries) / len(tries), rel=0.05)


def test_a_message_is_told_to_no_more_nodes_than_there_are_nor_than_it_has_members() -> None:
    assert nodes_told(50, 1) == nodes_told(0, 50) == 0
    assert nodes_told(50, 1_000_000) == pytest.approx(50, rel=0.01)
    assert nodes_told(1_000_000, 50) == pytest.approx(49)


def test_there_are_never_more_beats_than_frames_nor_than_pairs_of_nodes() -> None:
    for users in (10_000, 1_000_000, 30_000_000):
        found = plan(Load(users=users), Costs())
        assert 0 < found.beats <= min(found.frames, found.nodes * (found.nodes - 1))


def test_a_large_group_is_told_to_every_node_and_looked_up_nowhere() -> None:
    crowd = replace(TOWN, group_size=1_001, group_share=1, opens_per_day=0, messages_per_day=1)
    large = plan(crowd, Costs())
    assert large.frames == pytest.approx(large.messages * large.nodes)
    assert plan(crowd, Costs(lookup_more_redis=1_000_000)) == large


def test_there_may_be_no_number_of_nodes_that_carries_what_each_of_them_is_told() -> None:
    with pytest.raises(NoNumberOfNodes, match=r"in groups of 5,000 are told to every node"):
        plan(replace(TOWN, group_size=5_000, group_share=1), Costs(frame_node=1_000))
    with pytest.raises(CommandError, match="No number of nodes"):
        told("--group-size", "5000", "--group-share", "1", "--messages-per-day", "100000")


# --- the walls -------------------------------------------------------------------------------------------------------
def test_what_there_is_only_one_of_is_named_when_it_is_too_little_the_tightest_first() -> None:
    fine = plan(TOWN, Costs())
    enough = replace(fine, redis_cores=1, rabbitmq_cores=3, postgresql_cores=64, cassandra_machines=300)
    assert walls(enough) == []
    both = walls(replace(enough, redis_cores=1.5, postgresql_cores=640))
    assert [wall.partition(":")[0] for wall in both] == ["PostgreSQL", "Redis"]
    assert both[1] == "Redis: one, which uses one core, and 1.5 are needed"


# --- the command -----------------------------------------------------------------------------------------------------
def test_the_table_has_a_column_for_each_number_of_users() -> None:
    assert told().startswith("| users | 10,000 | 1,000,000 | 100,000,000 |")
    assert told("--users", "5000").startswith("| users | 5,000 |\n")


def test_as_json_it_is_what_was_asked_and_what_that_needs() -> None:
    (line,) = told("--users", "20000", "--active", "0.5", "--group-size", "10", "--json").splitlines()
    found = json.loads(line)
    assert found["load"]["group_size"] == 10
    assert found["plan"]["connections"] == 10_000
    assert found["walls"] == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--users", "-5", "is no whole number from 1"),
        ("--users", "0", "is no whole number from 1"),
        ("--users", "many", "'many' is no whole number"),
        ("--users", "9" * 400, "is no whole number"),
        ("--active", "1.5", "is no number from 0 to 1"),
        ("--active", "-0.1", "is no number from 0 to 1"),
        ("--active", "nan", "is no number from 0 to 1"),
        ("--messages-per-day", "some", "is no number from 0"),
        ("--group-size", "0", "is no whole number from 2"),
        ("--headroom", "0", "is no number above 0 to 1"),
        ("--peak", "0.5", "is no number from 1"),
    ],
)
def test_rubbish_is_refused_with_what_it_may_be(option: str, value: str, said: str) -> None:
    with pytest.raises(CommandError, match=said) as refused:
        told(f"{option}={value}")
    assert option in str(refused.value)


# --- the document ----------------------------------------------------------------------------------------------------
def test_the_document_has_the_tables_that_the_command_prints() -> None:
    """`manage.py capacity --into docs/capacity.md` renews it."""
    assert tables([Load(users=users) for users in USUAL]) in DOCUMENT.read_text()


def test_the_tables_are_put_where_they_belong_and_nothing_else_changes(tmp_path: Path) -> None:
    file = tmp_path / "capacity.md"
    file.write_text(f"# Before\n{BEGIN}old\n{END}after\n")
    told("--into", str(file))
    told("--into", str(file))
    assert file.read_text() == f"# Before\n{tables([Load(users=users) for users in USUAL])}after\n"


@pytest.mark.parametrize("text", [None, "no place\n"])
def test_a_file_without_a_place_for_them_is_left_alone(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "notes.md"
    if text is not None:
        file.write_text(text)
    with pytest.raises(CommandError, match=r"cannot be read|no place"):
        told("--into", str(file))
    assert text is None or file.read_text() == text

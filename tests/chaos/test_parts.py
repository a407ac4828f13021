"""What the fault suite itself stands on: lines and nodes that break as they should, a report that hides nothing."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.chaos.line import Line
from tests.chaos.report import junit, markdown
from tests.chaos.scene import Outcome
from tests.chaos.world import World
from tests.system.servers import Node

SOON = 0.2


@pytest.fixture
async def heard() -> list[bytes]:
    """What the server at the end of the line has been asked."""
    return []


@pytest.fixture
async def line(heard: list[bytes]) -> AsyncIterator[Line]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            heard.append(data)
            writer.write(data.upper())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    line = Line(lambda: server.sockets[0].getsockname()[1])
    await line.open()
    yield line
    await line.close()
    server.close()


async def _ask(line: Line) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    try:
        writer.write(b"hello")
        async with asyncio.timeout(SOON):
            return await reader.read(100)
    finally:
        writer.close()


async def test_a_whole_line_passes_both_ways(line: Line) -> None:
    assert await _ask(line) == b"HELLO"


async def test_a_line_that_refuses_lets_nobody_in_until_it_is_mended(line: Line) -> None:
    line.refuse()
    with pytest.raises(ConnectionRefusedError):
        await _ask(line)
    await line.mend()
    assert await _ask(line) == b"HELLO"


async def test_a_line_that_holds_passes_nothing_on(line: Line, heard: list[bytes]) -> None:
    line.hold()
    with pytest.raises(TimeoutError):
        await _ask(line)
    assert not heard
    await line.mend()
    assert await _ask(line) == b"HELLO"


async def test_a_line_can_lose_the_answer_to_what_got_through(line: Line, heard: list[bytes]) -> None:
    line.lose_answers()
    with pytest.raises(TimeoutError):
        await _ask(line)
    assert heard == [b"hello"]
    await line.mend()
    assert await _ask(line) == b"HELLO"


async def test_a_slow_line_answers_late(line: Line) -> None:
    line.slow_down(SOON * 2)
    with pytest.raises(TimeoutError):
        await _ask(line)
    await line.mend()
    assert await _ask(line) == b"HELLO"


KILLED, ENDED = "os.kill(os.getpid(), 9)", "sys.exit(1)"


def _world_and_node_that(ends: str, home: Path) -> tuple[World, Node]:
    node = Node("node-1", {}, home / "node-1.log", "daphne")
    node._command = [sys.executable, "-c", f"import os, sys; {ends}"]
    return World(home, "embedded", random.Random(1)), node


async def test_a_node_may_come_to_its_failpoint_before_it_is_ready(tmp_path: Path) -> None:
    world, node = _world_and_node_that(KILLED, tmp_path)
    await world.start_node(node, "storing")
    assert node not in world.door.up


@pytest.mark.parametrize(("ends", "failpoint"), [(KILLED, ""), (ENDED, "storing")])
async def test_a_node_that_ends_otherwise_did_not_start(ends: str, failpoint: str, tmp_path: Path) -> None:
    world, node = _world_and_node_that(ends, tmp_path)
    with pytest.raises(AssertionError, match="node-1 did not become ready"):
        await world.start_node(node, failpoint)


GOOD = Outcome("Redis is away", "full", "1", acked=1200, recovered_s=1.25, bystanders_p99_ms=80)
BAD = Outcome(
    "Redis is away", "full", "2", acked=800, violations=["lost: it"], recovered_s=4.0, timeline=[(1.5, "cut")]
)


def test_the_report_adds_up_and_shows_the_worst() -> None:
    text = markdown([GOOD, BAD], "7")
    assert "SEED=7, 2 scenes, 0 minutes: 2,000 acked, 1 violations." in text
    assert "| Redis is away | full | 2 | 2,000 | 1 | 4.0 s | 80 ms |  |" in text
    assert "   1.50 s  cut\n  lost: it" in text


def test_a_violation_is_a_failure_for_machines() -> None:
    suite = junit([GOOD, BAD]).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.findtext("failure") is not None for case in ET.ElementTree(suite).iter("testcase")] == [False, True]

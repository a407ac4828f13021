"""Each row of the fault suite in its short form, on each stack that has the part: nothing acked is lost."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chatproject.stack import DidNotStart, Missing
from tests.chaos import clients, faults
from tests.chaos.rows import Row
from tests.chaos.scene import Scene
from tests.chaos.world import StackName, World, running

pytestmark = [
    pytest.mark.system,
    pytest.mark.services,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

SEED = os.environ.get("SEED", "1")  # `make chaos` plays others


@asynccontextmanager
async def _world(stack: StackName, factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    try:
        async with running(factory.mktemp(stack), stack, SEED) as world:
            yield world
    except (Missing, DidNotStart) as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with _world("embedded", tmp_path_factory) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with _world("full", tmp_path_factory) as world:
        yield world


def _rows(stack: StackName) -> list[Any]:
    return [pytest.param(row, id=row.name) for row in faults.ROWS + clients.ROWS if stack in row.stacks]


@pytest.mark.parametrize("row", _rows("embedded"))
async def test_nothing_acked_is_lost_on_the_embedded_stack_when(embedded: World, row: Row, tmp_path: Path) -> None:
    await _play(embedded, row, tmp_path)


@pytest.mark.parametrize("row", _rows("full"))
async def test_nothing_acked_is_lost_on_the_full_stack_when(full: World, row: Row, tmp_path: Path) -> None:
    await _play(full, row, tmp_path)


async def _play(world: World, row: Row, tmp_path: Path) -> None:
    if row.part == "disk" and not world.has_small_disk:
        pytest.skip("this process may not mount a small disk")
    scene = Scene(world, row.name, SEED, short=True)
    outcome = await scene.play(row.breaks)
    scene.write(tmp_path / "history.jsonl")
    print(outcome)
    if outcome.violations:
        print(await world.last_words())  # the disk they are on goes with the world
    assert not outcome.violations, f"{outcome}\n{tmp_path / 'history.jsonl'}"
    assert outcome.acked > 0

"""Each row of the fault suite in its short form, on each stack that has the part: nothing acked is lost."""

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from chatproject.stack import DidNotStart, Missing
from tests.chaos.faults import ROWS, Row
from tests.chaos.scene import Scene
from tests.chaos.world import World, running

pytestmark = [
    pytest.mark.system,
    pytest.mark.services,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

SEED = os.environ.get("SEED") or secrets.token_hex(4)
CASES = [(stack, row) for stack in ("embedded", "full") for row in ROWS if stack in row.stacks]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    try:
        async with running(tmp_path_factory.mktemp(request.param), request.param, SEED) as world:
            yield world
    except (Missing, DidNotStart) as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("world", "row"),
    [pytest.param(stack, row, id=f"{stack}-{row.name}") for stack, row in CASES],
    indirect=["world"],
)
async def test_nothing_acked_is_lost_when(world: World, row: Row, tmp_path: Path) -> None:
    scene = Scene(world, row.name, SEED, short=True)
    outcome = await scene.play(row.breaks)
    scene.write(tmp_path / "history.jsonl")
    print(outcome)
    assert not outcome.violations, f"{outcome}\n{tmp_path / 'history.jsonl'}"
    assert outcome.acked > 0

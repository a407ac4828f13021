"""How a process comes by its history (apps/conversations/history/__init__.py)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from apps.conversations import history
from apps.conversations.errors import Unavailable


async def test_everyone_in_a_process_shares_one_history(settings: Any, tmp_path: Path) -> None:
    settings.HISTORY_PATH = tmp_path / "history.sqlite3"
    logs = await asyncio.gather(*(history.log() for _ in range(5)))
    assert len(set(map(id, logs))) == 1
    await history.close()


async def test_a_history_that_does_not_answer_is_unavailable_to_all_and_the_next_call_tries_again(
    settings: Any, tmp_path: Path
) -> None:
    directory = tmp_path / "missing"
    settings.HISTORY_PATH = directory / "history.sqlite3"
    outcomes = await asyncio.gather(*(history.log() for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
    directory.mkdir()
    await (await history.log()).ping()
    await history.close()


async def test_closing_twice_or_before_anything_was_asked_is_no_mistake(settings: Any, tmp_path: Path) -> None:
    settings.HISTORY_PATH = tmp_path / "history.sqlite3"
    await history.close()
    log = await history.log()
    await history.close()
    await history.close()
    with pytest.raises(Unavailable):
        await log.ping()


async def test_a_caller_who_gives_up_does_not_break_the_connecting_of_others(settings: Any, tmp_path: Path) -> None:
    settings.HISTORY_PATH = tmp_path / "history.sqlite3"
    hasty = asyncio.create_task(history.log())
    patient = asyncio.create_task(history.log())
    await asyncio.sleep(0)
    hasty.cancel()
    await (await patient).ping()
    await history.close()

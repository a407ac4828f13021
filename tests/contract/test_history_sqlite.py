"""What only the SQLite history can get wrong: its one writing thread, and a disk that takes no more."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from apps.conversations.errors import Unavailable
from apps.conversations.history import sqlite
from apps.conversations.history.sqlite import SqliteHistory
from apps.conversations.messages import Draft


class OnSmallDisk(SqliteHistory):
    """`pages`: how large its file may grow."""

    pages = 1_000_000

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.execute(f"PRAGMA max_page_count = {self.pages}")
        return connection


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[OnSmallDisk]:
    store = OnSmallDisk(tmp_path / "history.sqlite3")
    await store.start()
    yield store
    await store.close()


def draft(content: str = "hello", conversation_id: UUID | None = None) -> Draft:
    return Draft(conversation_id or uuid4(), uuid4(), uuid4(), content)


async def test_a_full_disk_is_unavailable_loses_nothing_and_passes(store: OnSmallDisk) -> None:
    here = uuid4()
    await store.append([draft(conversation_id=here)], members_version=0)
    await store.close()
    store.pages = 10
    await store.start()
    large = [draft("x" * 8_000, here) for _ in range(20)]
    with pytest.raises(Unavailable, match="full"):
        await store.append(large, members_version=0)
    assert len(await store.before(here, None, 50)) == 1  # all of a group or nothing

    store.pages = 1_000_000
    assert [message.seq for message in await store.append(large, members_version=0)] == list(range(2, 22))


async def test_a_draft_that_cannot_be_stored_does_not_stop_the_writer(store: OnSmallDisk) -> None:
    with pytest.raises(UnicodeEncodeError):
        await store.append([draft("\ud800")], members_version=0)
    (message,) = await store.append([draft()], members_version=0)
    assert message.seq == 1


async def test_what_queues_up_is_committed_together_whatever_the_conversation(
    store: OnSmallDisk, tmp_path: Path
) -> None:
    watcher = sqlite3.connect(tmp_path / "history.sqlite3")
    other = sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the writer has to wait, with the first of them
    appends = [asyncio.create_task(store.append([draft()], members_version=0)) for _ in range(50)]
    await asyncio.sleep(0)
    other.execute("ROLLBACK")
    seen = set()
    while not all(append.done() for append in appends):
        seen.add(watcher.execute("SELECT count(*) FROM message_log").fetchone()[0])
        await asyncio.sleep(0)
    watcher.close()
    other.close()
    assert [append.result()[0].seq for append in appends] == [1] * 50
    assert len(seen) <= 4  # nothing, what the writer had taken at first, and the rest


async def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "missing" / "history.sqlite3")
    with pytest.raises(Unavailable):
        await store.start()
    with pytest.raises(Unavailable):
        await store.append([draft()], members_version=0)
    (tmp_path / "missing").mkdir()
    await store.start()
    assert len(await store.append([draft()], members_version=0)) == 1
    await store.close()


class Counting(SqliteHistory):
    """How many instructions SQLite has carried out for it."""

    instructions = 0

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.set_progress_handler(self._count, 10)
        return connection

    def _count(self) -> int:
        self.instructions += 10
        return 0


async def test_a_message_costs_as_much_in_a_long_conversation_as_in_a_short_one(tmp_path: Path) -> None:
    store = Counting(tmp_path / "history.sqlite3")
    await store.start()
    here, costs = uuid4(), []
    for length in (10, 3_000):
        await store.append([draft(conversation_id=here) for _ in range(length)], members_version=0)
        before = store.instructions
        await store.append([draft(conversation_id=here)], members_version=0)
        costs.append(store.instructions - before)
    await store.close()

    assert 0 < costs[1] < 2 * costs[0]


async def test_what_queues_up_while_another_process_writes_is_committed_together(
    store: OnSmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append([draft()], members_version=0)
    commit, sizes = sqlite._commit, []

    def counted(connection: sqlite3.Connection, requests: Any) -> Any:
        sizes.append(len(requests))
        return commit(connection, requests)

    monkeypatch.setattr(sqlite, "_commit", counted)
    other = sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(store.append([draft()], members_version=0)) for _ in range(3)]
    answered, _ = await asyncio.wait(waiting, timeout=0.1)
    assert not answered

    other.execute("COMMIT")
    other.close()
    await asyncio.gather(*waiting)
    assert sizes == [3]


async def test_all_who_wait_for_another_process_are_told_within_one_deadline(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "history.sqlite3", deadline_s=0.3)
    await store.start()
    await store.append([draft()], members_version=0)
    other = sqlite3.connect(tmp_path / "history.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    waiting = [asyncio.create_task(store.append([draft()], members_version=0)) for _ in range(20)]
    answered, _ = await asyncio.wait(waiting, timeout=3)

    assert len(answered) == 20
    assert all(isinstance(each.exception(), Unavailable) for each in waiting)
    other.close()
    await store.close()

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from apps.conversations.errors import Unavailable
from apps.conversations.history import group_commit, pressure
from apps.conversations.history.group_commit import History
from apps.conversations.messages import Draft, Message

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HERE = UUID(int=1)
ELSEWHERE = UUID(int=2)


class FakeStore:
    """Numbers what it is given, one commit at a time, each when it is let."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.under_way = 0
        self.fails_with: Exception | None = None
        self.closed = False
        self._gate = asyncio.Semaphore(0)
        self._heads: dict[UUID, int] = {}

    def let(self, commits: int) -> None:
        for _ in range(commits):
            self._gate.release()

    async def append(self, drafts: Sequence[Draft], members_version: int) -> list[Message]:
        self.commits.append([draft.content for draft in drafts])
        self.under_way += 1
        await self._gate.acquire()
        self.under_way -= 1
        if self.fails_with is not None:
            raise self.fails_with
        return [self._number(draft) for draft in drafts]

    def _number(self, draft: Draft) -> Message:
        seq = self._heads[draft.conversation_id] = self._heads.get(draft.conversation_id, 0) + 1
        return Message(draft.conversation_id, seq, draft.sender_id, draft.client_msg_id, draft.kind, draft.content, NOW)

    async def close(self) -> None:
        self.closed = True

    start = ping = close

    async def latest(self, *_: object) -> dict[UUID, Message]:
        return {}

    before = after = latest


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def history(store: FakeStore) -> History:
    return History(cast(Any, store))


def draft(content: str = "hello", conversation_id: UUID = HERE) -> Draft:
    return Draft(conversation_id, uuid4(), uuid4(), content)


async def saying(history: History, *drafts: Draft) -> list[asyncio.Task[Message]]:
    """Each said by a caller of its own, in this order, up to where it waits."""
    callers = []
    for each in drafts:
        callers.append(asyncio.create_task(history.append(each, members_version=0)))
        await asyncio.sleep(0)  # now it waits
        await asyncio.sleep(0)  # now the first commit is under way
    return callers


async def seqs(callers: list[asyncio.Task[Message]]) -> list[int]:
    return [message.seq for message in await asyncio.gather(*callers)]


async def test_what_is_said_during_a_commit_goes_together_in_the_next_one(store: FakeStore, history: History) -> None:
    callers = await saying(history, *map(draft, "abcd"))
    assert store.commits == [["a"]]
    store.let(2)
    assert await seqs(callers) == [1, 2, 3, 4]
    assert store.commits == [["a"], ["b", "c", "d"]]


async def test_a_commit_is_bounded(store: FakeStore, history: History) -> None:
    callers = await saying(history, *(draft() for _ in range(1 + 2 * group_commit.MAX_GROUP)))
    store.let(3)
    assert await seqs(callers) == list(range(1, len(callers) + 1))
    assert [len(commit) for commit in store.commits] == [1, group_commit.MAX_GROUP, group_commit.MAX_GROUP]


async def test_conversations_do_not_wait_for_each_other(store: FakeStore, history: History) -> None:
    callers = await saying(history, draft(conversation_id=HERE), draft(conversation_id=ELSEWHERE))
    assert store.under_way == 2
    store.let(2)
    assert await seqs(callers) == [1, 1]


async def test_what_is_said_by_the_word_of_other_members_goes_by_itself(store: FakeStore, history: History) -> None:
    versions = [1, 1, 1, 2, 2, 1]
    callers = [
        asyncio.create_task(history.append(draft(str(version)), members_version=version)) for version in versions
    ]
    store.let(len(versions))
    assert await seqs(callers) == [1, 2, 3, 4, 5, 6]
    assert [version for commit in store.commits for version in commit] == list(map(str, versions))
    assert all(len(set(commit)) == 1 for commit in store.commits)


async def test_two_tries_of_a_message_in_one_commit_are_one(store: FakeStore, history: History) -> None:
    said = draft("b")
    callers = await saying(history, draft("a"), said, said)
    store.let(2)
    assert await seqs(callers) == [1, 2, 2]
    assert store.commits == [["a"], ["b"]]


async def test_of_two_tries_in_one_commit_the_first_is_stored(store: FakeStore, history: History) -> None:
    first = draft("first")
    callers = await saying(history, draft(), first, msgspec.structs.replace(first, content="second", after_seq=3))
    store.let(2)

    assert [message.content for message in await asyncio.gather(*callers)] == ["hello", "first", "first"]
    assert store.commits == [["hello"], ["first"]]


async def test_a_failure_reaches_every_caller_of_that_commit_and_no_other(store: FakeStore, history: History) -> None:
    callers = await saying(history, *map(draft, "abc"))
    store.let(1)
    await callers[0]
    store.fails_with = Unavailable("away")
    store.let(1)
    for caller in callers[1:]:
        with pytest.raises(Unavailable):
            await caller
    store.fails_with = None
    store.let(1)
    assert (await history.append(draft(), members_version=0)).seq == 2


async def test_a_caller_who_goes_away_takes_nobody_with_them(store: FakeStore, history: History) -> None:
    callers = await saying(history, *map(draft, "abc"))
    callers[0].cancel()
    callers[1].cancel()
    store.let(2)
    assert (await callers[2]).seq == 3  # what was asked for is stored all the same
    assert store.commits == [["a"], ["b", "c"]]


async def test_a_conversation_with_too_many_waiting_refuses_more(
    store: FakeStore, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MAX_WAITING", 2)
    callers = await saying(history, *(draft() for _ in range(3)))
    with pytest.raises(Unavailable) as refused:
        await history.append(draft(), members_version=0)
    assert refused.value.retry_after_ms
    store.let(3)
    assert await seqs(callers) == [1, 2, 3]
    assert (await history.append(draft(), members_version=0)).seq == 4


@pytest.fixture
def a_small_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "LOWEST", 2)
    monkeypatch.setattr(pressure, "FIRST", 4)


@pytest.mark.usefixtures("a_small_store")
async def test_a_store_with_too_much_to_do_is_asked_for_no_more(store: FakeStore, history: History) -> None:
    callers = await saying(history, *(draft(conversation_id=uuid4()) for _ in range(4)))

    with pytest.raises(Unavailable) as refused:
        await history.append(draft(), members_version=0)

    assert refused.value.retry_after_ms
    assert len(store.commits) == 4
    store.let(5)
    await asyncio.gather(*callers)
    assert (await history.append(draft(), members_version=0)).seq == 1


@pytest.mark.usefixtures("a_small_store")
async def test_who_reads_is_put_off_while_many_write(store: FakeStore, history: History) -> None:
    callers = await saying(history, *(draft(conversation_id=uuid4()) for _ in range(3)))

    for question in (history.latest([HERE]), history.before(HERE, None, 1), history.after(HERE, 0, 1)):
        with pytest.raises(Unavailable):
            await question

    store.let(3)
    await asyncio.gather(*callers)
    await history.latest([HERE])


async def test_an_idle_conversation_leaves_nothing_behind(store: FakeStore, history: History) -> None:
    store.let(2)
    await history.append(draft(), members_version=0)
    await history.append(draft(conversation_id=ELSEWHERE), members_version=0)
    await asyncio.sleep(0)
    assert not history._waiting
    assert not history._committers


async def test_closing_waits_for_what_has_been_said(store: FakeStore, history: History) -> None:
    callers = await saying(history, *map(draft, "abc"))
    closing = asyncio.create_task(history.close())
    await asyncio.sleep(0)
    assert not store.closed
    store.let(2)
    await closing
    assert store.closed
    assert await seqs(callers) == [1, 2, 3]

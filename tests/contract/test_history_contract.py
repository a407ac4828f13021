"""What every history store promises (apps/conversations/history/base.py)."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import UUID, uuid4

import msgspec
import pytest

from apps.conversations.errors import Unavailable
from apps.conversations.history.base import HistoryStore, MembersChanged
from apps.conversations.messages import Draft, Kind, Message
from tests.contract import writer
from tests.contract.backends import BUCKET_SIZE, Backend
from tests.contract.conftest import ROOT

SEVERAL_BUCKETS = 3 * BUCKET_SIZE + 2


@pytest.fixture
def conversation_id() -> UUID:
    return uuid4()


def drafts(conversation_id: UUID, number: int) -> list[Draft]:
    return [Draft(conversation_id, uuid4(), uuid4(), f"message {index}") for index in range(1, number + 1)]


def again(draft: Draft, *, after_seq: int, content: str = "another text") -> Draft:
    """The same message on a later try. What counts is the first."""
    return msgspec.structs.replace(draft, after_seq=after_seq, content=content)


def seqs(messages: Sequence[Message]) -> list[int]:
    return [message.seq for message in messages]


def contents(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages]


# --- numbers ---------------------------------------------------------------------------------------------------------
async def test_messages_are_numbered_from_one_in_the_order_given(store: HistoryStore, conversation_id: UUID) -> None:
    said = drafts(conversation_id, SEVERAL_BUCKETS)
    first = await store.append(said[:1], members_version=0)
    rest = await store.append(said[1:], members_version=0)

    assert seqs(first + rest) == list(range(1, SEVERAL_BUCKETS + 1))
    assert contents(first + rest) == contents(await store.after(conversation_id, 0, 100))
    assert [message.client_msg_id for message in first + rest] == [draft.client_msg_id for draft in said]


async def test_each_conversation_counts_for_itself(store: HistoryStore) -> None:
    results = await asyncio.gather(*(store.append(drafts(uuid4(), 2), members_version=0) for _ in range(10)))
    assert [seqs(messages) for messages in results] == [[1, 2]] * 10


async def test_a_message_is_kept_as_it_was_said(store: HistoryStore, conversation_id: UUID) -> None:
    text = "“Grüße” 👩‍👩‍👧‍👦\n\tDROP TABLE; '\"\\ " + "x" * 7_900
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    said = [
        Draft(conversation_id, uuid4(), uuid4(), text),
        Draft(conversation_id, uuid4(), uuid4(), "Ada created the group", Kind.SYSTEM),
    ]
    returned = await store.append(said, members_version=0)

    assert returned == await store.after(conversation_id, 0, 10)
    assert [(m.sender_id, m.client_msg_id, m.content, m.kind) for m in returned] == [
        (draft.sender_id, draft.client_msg_id, draft.content, draft.kind) for draft in said
    ]
    assert all(before <= message.sent_at <= datetime.now(UTC) for message in returned)
    assert all(message.sent_at.microsecond % 1_000 == 0 for message in returned)
    assert not any(message.repeated for message in returned)


# --- by whose word ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [1, BUCKET_SIZE - 1, BUCKET_SIZE, BUCKET_SIZE + 1])
async def test_nothing_is_stored_by_the_word_of_older_members(
    backend: Backend, store: HistoryStore, conversation_id: UUID, length: int
) -> None:
    other = backend.store()
    await other.start()
    await other.append(drafts(conversation_id, 1), members_version=7)  # so that it remembers a head
    await store.append(drafts(conversation_id, length), members_version=8)
    late = drafts(conversation_id, 2)

    for writer_of_old in (other, store):
        with pytest.raises(MembersChanged):
            await writer_of_old.append(late, members_version=7)
    assert seqs(await other.append(late, members_version=8)) == [length + 2, length + 3]
    assert seqs(await store.append(drafts(conversation_id, 1), members_version=9)) == [length + 4]
    await other.close()


async def test_a_message_from_before_a_change_is_found_again_after_it(
    store: HistoryStore, conversation_id: UUID
) -> None:
    said = drafts(conversation_id, 1)
    await store.append(said, members_version=1)
    await store.append(drafts(conversation_id, 1), members_version=2)

    (repeated,) = await store.append([again(said[0], after_seq=0)], members_version=2)
    assert (repeated.seq, repeated.repeated) == (1, True)


async def test_a_log_whose_first_members_are_not_version_0_begins_at_once(
    store: HistoryStore, conversation_id: UUID
) -> None:
    assert seqs(await store.append(drafts(conversation_id, 2), members_version=5)) == [1, 2]


async def test_sixteen_writers_in_four_processes_leave_no_hole_and_no_double(
    backend: Backend, store: HistoryStore, conversation_id: UUID
) -> None:
    processes = [await _writers(backend, conversation_id, rounds=1) for _ in range(4)]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    printed = [line.split() for output, _ in outputs for line in output.decode().splitlines()]

    acknowledged = {int(seq): UUID(client_msg_id) for seq, client_msg_id in printed}
    total = 4 * writer.MESSAGES
    assert len(printed) == total
    assert sorted(acknowledged) == list(range(1, total + 1))
    stored = await store.after(conversation_id, 0, 2 * total)
    assert {message.seq: message.client_msg_id for message in stored} == acknowledged


async def test_what_a_killed_process_had_acknowledged_stays_and_the_numbers_go_on_without_a_hole(
    backend: Backend, store: HistoryStore, conversation_id: UUID
) -> None:
    process = await _writers(backend, conversation_id, rounds=1_000)
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(20)]
    process.kill()
    lines += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()

    (next_one,) = await store.append(drafts(conversation_id, 1), members_version=0)
    stored = await store.after(conversation_id, 0, 10_000)
    assert seqs(stored) == list(range(1, len(stored) + 1))
    assert next_one in stored
    said = {(str(message.seq), str(message.client_msg_id)) for message in stored}
    assert {tuple(line.decode().split()) for line in lines if line.endswith(b"\n")} <= said


async def _writers(backend: Backend, conversation_id: UUID, *, rounds: int) -> asyncio.subprocess.Process:
    kind = type(backend).__name__.lower()
    where = (kind, backend.where, str(conversation_id), str(rounds))
    command = [sys.executable, "-m", "tests.contract.writer", *where]
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


async def test_a_store_that_lagged_behind_numbers_and_reads_from_the_true_head(
    backend: Backend, store: HistoryStore, conversation_id: UUID
) -> None:
    await store.append(drafts(conversation_id, 1), members_version=0)
    other = backend.store()
    await other.start()
    await other.append(drafts(conversation_id, SEVERAL_BUCKETS), members_version=0)
    await other.close()

    assert seqs(await store.before(conversation_id, None, 2)) == [SEVERAL_BUCKETS, SEVERAL_BUCKETS + 1]
    assert seqs(await store.append(drafts(conversation_id, 1), members_version=0)) == [SEVERAL_BUCKETS + 2]


# --- repeats ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("said_since", [0, 1, BUCKET_SIZE - 1, BUCKET_SIZE, SEVERAL_BUCKETS])
@pytest.mark.parametrize("held", [0, 2])
async def test_a_repeat_is_answered_with_the_first_message_however_late(
    store: HistoryStore, conversation_id: UUID, held: int, said_since: int
) -> None:
    await store.append(drafts(conversation_id, 2), members_version=0)
    said = drafts(conversation_id, 1)
    first = await store.append(said, members_version=0)
    if said_since:
        await store.append(drafts(conversation_id, said_since), members_version=0)

    repeated = await store.append([again(said[0], after_seq=held)], members_version=0)

    assert repeated == [msgspec.structs.replace(first[0], repeated=True)]
    assert (await store.latest([conversation_id]))[conversation_id].seq == 3 + said_since


async def test_a_repeat_in_the_middle_of_a_group_takes_no_number(store: HistoryStore, conversation_id: UUID) -> None:
    said = drafts(conversation_id, BUCKET_SIZE + 3)
    await store.append(said, members_version=0)
    old = again(said[1], after_seq=0)
    recent = again(said[-1], after_seq=0)
    new = drafts(conversation_id, 3)
    head = len(said)

    answers = await store.append([new[0], old, new[1], recent, new[2]], members_version=0)

    assert seqs(answers) == [head + 1, 2, head + 2, head, head + 3]
    assert [message.repeated for message in answers] == [False, True, False, True, False]
    assert len(await store.after(conversation_id, 0, 100)) == head + 3


async def test_a_repeat_behind_what_fills_a_bucket_takes_no_number(store: HistoryStore, conversation_id: UUID) -> None:
    said = drafts(conversation_id, BUCKET_SIZE - 1)
    await store.append(said, members_version=0)
    (new,) = drafts(conversation_id, 1)

    answers = await store.append([new, again(said[2], after_seq=0)], members_version=0)

    assert seqs(answers) == [BUCKET_SIZE, 3]
    assert len(await store.after(conversation_id, 0, 100)) == BUCKET_SIZE


async def test_the_same_message_twice_in_a_group_is_one(store: HistoryStore, conversation_id: UUID) -> None:
    one, two = drafts(conversation_id, 2)
    assert seqs(await store.append([one, one, two], members_version=0)) == [1, 1, 2]
    assert seqs(await store.after(conversation_id, 0, 10)) == [1, 2]


async def test_the_same_client_msg_id_from_another_sender_is_another_message(
    store: HistoryStore, conversation_id: UUID
) -> None:
    client_msg_id = uuid4()
    said = [Draft(conversation_id, uuid4(), client_msg_id, "hello", after_seq=0) for _ in range(2)]
    assert seqs(await store.append(said, members_version=0)) == [1, 2]


async def test_a_message_whose_caller_went_away_is_stored_once_when_said_again(
    store: HistoryStore, conversation_id: UUID
) -> None:
    for turns in range(12):  # of the loop: the caller goes away at different points
        said = drafts(conversation_id, 1)
        appending = asyncio.create_task(store.append(said, members_version=0))
        for _ in range(turns):
            await asyncio.sleep(0)
        appending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await appending
        await store.append([again(said[0], after_seq=0)], members_version=0)
    stored = await store.after(conversation_id, 0, 100)
    assert seqs(stored) == list(range(1, 13))


# --- reading ---------------------------------------------------------------------------------------------------------
async def test_an_empty_conversation_has_nothing(store: HistoryStore, conversation_id: UUID) -> None:
    assert await store.before(conversation_id, None, 50) == []
    assert await store.before(conversation_id, 10, 50) == []
    assert await store.after(conversation_id, 0, 50) == []
    assert await store.latest([conversation_id]) == {}
    assert await store.latest([]) == {}


async def test_pages_are_slices_of_the_log_in_both_directions(store: HistoryStore, conversation_id: UUID) -> None:
    log = await store.append(drafts(conversation_id, SEVERAL_BUCKETS), members_version=0)
    for limit in (1, BUCKET_SIZE, BUCKET_SIZE + 1, 100):
        assert await store.before(conversation_id, None, limit) == log[-limit:]
        for seq in range(SEVERAL_BUCKETS + 2):
            older = [message for message in log if message.seq < seq]
            newer = [message for message in log if message.seq > seq]
            assert await store.before(conversation_id, seq, limit) == older[-limit:]
            assert await store.after(conversation_id, seq, limit) == newer[:limit]


async def test_numbers_far_beyond_the_head_are_answered_too(store: HistoryStore, conversation_id: UUID) -> None:
    log = await store.append(drafts(conversation_id, BUCKET_SIZE), members_version=0)
    assert await store.before(conversation_id, 2**53, 3) == log[-3:]
    assert await store.after(conversation_id, 2**53, 3) == []
    assert seqs(
        await store.append([again(draft, after_seq=2**53) for draft in drafts(conversation_id, 1)], members_version=0)
    ) == [BUCKET_SIZE + 1]


async def test_the_latest_of_many_conversations_come_together(store: HistoryStore) -> None:
    lengths = {uuid4(): length for length in range(2 * BUCKET_SIZE)}
    for conversation_id, length in lengths.items():
        if length:
            await store.append(drafts(conversation_id, length), members_version=0)
    latest = await store.latest(lengths.keys())
    assert {each: message.seq for each, message in latest.items()} == {
        each: length for each, length in lengths.items() if length
    }


# --- coming and going ------------------------------------------------------------------------------------------------
async def test_a_restarted_store_goes_on_where_it_was(store: HistoryStore, conversation_id: UUID) -> None:
    said = drafts(conversation_id, BUCKET_SIZE)
    log = await store.append(said, members_version=0)
    await store.close()
    await store.start()
    await store.ping()

    assert await store.before(conversation_id, None, 50) == log
    assert seqs(await store.append([again(said[0], after_seq=0), *drafts(conversation_id, 1)], members_version=0)) == [
        1,
        BUCKET_SIZE + 1,
    ]


async def test_a_closed_store_is_unavailable(store: HistoryStore, conversation_id: UUID) -> None:
    await store.close()
    with pytest.raises(Unavailable):
        await store.append(drafts(conversation_id, 1), members_version=0)
    with pytest.raises(Unavailable):
        await store.before(conversation_id, None, 1)
    with pytest.raises(Unavailable):
        await store.ping()


async def test_while_the_store_is_away_it_says_so_in_time_and_afterwards_nothing_is_lost_or_doubled(
    backend: Backend, conversation_id: UUID
) -> None:
    store = backend.store(deadline_s=1)
    await store.start()
    known = await _until_available(store, drafts(conversation_id, 1))
    said = drafts(conversation_id, 2)
    async with backend.away():
        asked_at = monotonic()
        with pytest.raises(Unavailable) as refused:
            await store.append(said, members_version=0)
        assert monotonic() - asked_at < 5  # the deadline, and a busy machine
        assert refused.value.retry_after_ms

    stored = await _until_available(store, [again(draft, after_seq=1, content=draft.content) for draft in said])
    assert seqs(stored) == [2, 3]
    assert contents(await store.after(conversation_id, 0, 10)) == contents(known) + contents(said)
    await store.close()


async def _until_available(store: HistoryStore, said: list[Draft]) -> list[Message]:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                return await store.append(said, members_version=0)

"""What only Cassandra's history can get wrong: lost answers, wrong hints, where a page is read from."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import acsylla
import msgspec
import pytest
from acsylla.errors import CassErrorLibRequestTimedOut

from apps.conversations.errors import Unavailable
from apps.conversations.history.base import Contended
from apps.conversations.history.cassandra import CassandraHistory
from apps.conversations.messages import Draft
from tests.contract.backends import BUCKET_SIZE

pytestmark = pytest.mark.services


class Wire:
    """Between a store and its session: sees each statement before it goes out, each answer before it is given."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.statements = 0
        self.before: Callable[[Any], None] = lambda statement: None
        self.after: Callable[[Any], None] = lambda answer: None

    async def execute(self, statement: Any) -> Any:
        self.statements += 1
        self.before(statement)
        answer = await self._session.execute(statement)
        self.after(answer)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def lose_next_answer(self) -> None:
        def lose(answer: Any) -> None:
            self.after = lambda answer: None
            raise CassErrorLibRequestTimedOut("lost on the way")

        self.after = lose


@pytest.fixture
async def store(cassandra_log: str) -> AsyncIterator[CassandraHistory]:
    store = CassandraHistory(cassandra_log, bucket_size=BUCKET_SIZE)
    await store.start()
    yield store
    await store.close()


@pytest.fixture
def wire(store: CassandraHistory) -> Wire:
    wire = Wire(store._connection.session)
    store._connection.session = wire
    return wire


@pytest.fixture
def conversation_id() -> UUID:
    return uuid4()


def drafts(conversation_id: UUID, number: int) -> list[Draft]:
    return [Draft(conversation_id, uuid4(), uuid4(), "hello") for _ in range(number)]


@pytest.mark.parametrize("known", [1, BUCKET_SIZE - 1, BUCKET_SIZE])
async def test_a_batch_whose_answer_got_lost_is_not_stored_twice(
    store: CassandraHistory, wire: Wire, conversation_id: UUID, known: int
) -> None:
    await store.append(drafts(conversation_id, known), members_version=0)
    wire.lose_next_answer()
    said = drafts(conversation_id, 2)
    stored = await store.append(said, members_version=0)
    assert [message.seq for message in stored] == [known + 1, known + 2]
    assert len(await store.after(conversation_id, 0, 100)) == known + 2


async def test_an_answer_lost_for_good_is_unknown_and_the_retry_finds_the_message_beyond_the_border(
    store: CassandraHistory, wire: Wire, cassandra_log: str, conversation_id: UUID
) -> None:
    await store.append(drafts(conversation_id, BUCKET_SIZE - 1), members_version=0)
    impatient = CassandraHistory(cassandra_log, bucket_size=BUCKET_SIZE)
    await impatient.start()
    deaf = Wire(impatient._connection.session)
    impatient._connection.session = deaf
    await impatient.before(conversation_id, None, 1)  # knows the head
    impatient._connection._deadline_s = 0.5

    def lose(answer: Any) -> None:
        raise CassErrorLibRequestTimedOut("lost on the way")

    deaf.after = lose
    said = drafts(conversation_id, 1)
    with pytest.raises(Unavailable):
        await impatient.append(said, members_version=0)
    await impatient.close()
    await store.append(drafts(conversation_id, 1), members_version=0)

    (message,) = await store.append([msgspec.structs.replace(said[0], after_seq=BUCKET_SIZE - 1)], members_version=0)
    assert (message.seq, message.repeated) == (BUCKET_SIZE, True)


async def test_a_first_try_that_was_held_up_finds_what_the_second_one_stored(
    store: CassandraHistory, cassandra_log: str, conversation_id: UUID
) -> None:
    await store.append(drafts(conversation_id, BUCKET_SIZE - 1), members_version=0)
    said = drafts(conversation_id, 1)
    await store.append([msgspec.structs.replace(said[0], after_seq=0)], members_version=0)
    await store.append(drafts(conversation_id, 1), members_version=0)  # opens the next bucket

    thawed = CassandraHistory(cassandra_log, bucket_size=BUCKET_SIZE)
    await thawed.start()
    (message,) = await thawed.append(said, members_version=0)
    await thawed.close()

    assert (message.seq, message.repeated) == (BUCKET_SIZE, True)


async def test_who_is_overtaken_twice_in_a_row_gives_way_if_asked_to(
    store: CassandraHistory, wire: Wire, cassandra_log: str, conversation_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CassandraHistory(cassandra_log, bucket_size=BUCKET_SIZE)
    await other.start()
    execute, overtaking = wire.execute, 0

    async def overtaken(statement: Any) -> Any:
        nonlocal overtaking
        if overtaking:
            overtaking -= 1
            await other.append(drafts(conversation_id, 1), members_version=0)
        return await execute(statement)

    monkeypatch.setattr(wire, "execute", overtaken)
    said = drafts(conversation_id, 3)
    await store.append(said[:1], members_version=0, give_way=True)
    overtaking = 1  # as when somebody else spoke last: the number remembered here is an old one
    await store.append(said[1:2], members_version=0, give_way=True)
    overtaking = 2
    with pytest.raises(Contended):
        await store.append(said[2:], members_version=0, give_way=True)
    overtaking = 2
    await store.append(said[2:], members_version=0)
    await other.close()

    messages = await store.after(conversation_id, 0, 100)
    assert [message.seq for message in messages] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [message.seq for message in messages if message.sender_id in {each.sender_id for each in said}] == [1, 3, 8]


async def test_a_head_remembered_too_high_is_corrected(store: CassandraHistory, conversation_id: UUID) -> None:
    await store.append(drafts(conversation_id, 3), members_version=0)
    for wrong in (5, BUCKET_SIZE, BUCKET_SIZE + 1, 5 * BUCKET_SIZE):  # as after restoring a backup under a live node
        store._heads.saw(conversation_id, wrong)
        await store.append(drafts(conversation_id, 1), members_version=0)
    assert [message.seq for message in await store.after(conversation_id, 0, 100)] == [1, 2, 3, 4, 5, 6, 7]


async def test_advice_that_runs_ahead_opens_no_bucket(
    store: CassandraHistory, wire: Wire, cassandra_log: str, conversation_id: UUID
) -> None:
    await store.append(drafts(conversation_id, 2), members_version=0)
    keyspace = urlsplit(cassandra_log).path.strip("/")
    advice = f"INSERT INTO {keyspace}.conversation_heads (conversation_id, bucket) VALUES ({conversation_id}, 7)"
    await wire.execute(acsylla.create_statement(advice))
    fresh = CassandraHistory(cassandra_log, bucket_size=BUCKET_SIZE)
    await fresh.start()
    assert len(await fresh.before(conversation_id, None, 50)) == 2
    assert [message.seq for message in await fresh.append(drafts(conversation_id, 1), members_version=0)] == [3]
    await fresh.close()


async def test_a_message_in_a_known_conversation_is_one_statement(
    store: CassandraHistory, wire: Wire, conversation_id: UUID
) -> None:
    await store.append(drafts(conversation_id, 1), members_version=0)
    wire.statements = 0
    await store.append(drafts(conversation_id, 3), members_version=0)
    assert wire.statements == 1


@pytest.mark.parametrize(("length", "slices"), [(50, 1), (70, 2)])
async def test_the_last_fifty_are_one_slice_of_one_or_two_partitions(
    cassandra_log: str, conversation_id: UUID, length: int, slices: int
) -> None:
    store = CassandraHistory(cassandra_log, bucket_size=60)
    await store.start()
    await store.append(drafts(conversation_id, length), members_version=0)
    wire = Wire(store._connection.session)
    store._connection.session = wire
    traces: list[str] = []
    wire.before = lambda statement: statement.set_tracing(True)
    wire.after = lambda answer: traces.append(answer.tracing_id)

    assert len(await store.before(conversation_id, None, 50)) == 50

    steps = [step for trace in traces for step in await _steps(wire, trace)]
    await store.close()
    assert len(traces) == slices
    slice_read = "Executing single-partition query on message_log"
    assert [step for step in steps if step.startswith("Executing") and "role" not in step] == [slice_read] * slices


async def _steps(wire: Wire, trace: str) -> list[str]:
    """What Cassandra did for one statement. It writes that down a little later, the duration last."""
    wire.before = lambda statement: None
    wire.after = lambda answer: None

    async def ask(columns: str, table: str) -> list[Any]:
        query = f"SELECT {columns} FROM system_traces.{table} WHERE session_id = {trace}"
        statement = acsylla.create_statement(query, consistency=acsylla.Consistency.ONE)
        return [row.as_tuple()[0] for row in await wire.execute(statement)]

    async with asyncio.timeout(10):
        while await ask("duration", "sessions") in ([], [None]):
            pass
        while not (steps := await ask("activity", "events")):
            pass
    return steps


async def test_a_cassandra_that_is_not_there_is_unavailable_soon() -> None:
    nobody = CassandraHistory("cassandra://127.0.0.1:1/chat")
    with pytest.raises(Unavailable):
        await nobody.start()
    with pytest.raises(Unavailable):
        await nobody.append(drafts(uuid4(), 1), members_version=0)


async def test_a_keyspace_without_tables_names_the_command_that_makes_them(cassandra_log: str) -> None:
    empty = CassandraHistory(urlsplit(cassandra_log)._replace(path="/nothing_here").geturl())
    with pytest.raises(Unavailable, match="sync_cassandra"):
        await empty.start()

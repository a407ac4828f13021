"""The audit on each store: it finds what was done to the rows by hand, and nothing in what the store did by itself."""

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import acsylla
import pytest

from apps.conversations import audit
from apps.conversations.history import cassandra
from apps.conversations.history.audit import AuditedStore, Kind
from apps.conversations.history.cassandra import CassandraHistory
from apps.conversations.history.sqlite import SqliteHistory
from apps.conversations.messages import Draft, Message
from tests.contract.backends import BUCKET_SIZE, Backend


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteHistory, "part_size", BUCKET_SIZE)
    monkeypatch.setattr(cassandra, "AUDIT_PAGE", 3)


@pytest.fixture
def conversation_id() -> UUID:
    return uuid4()


async def say(store: AuditedStore, conversation_id: UUID, number: int) -> list[Message]:
    drafts = [Draft(conversation_id, uuid4(), uuid4(), "hello") for _ in range(number)]
    return await store.append(drafts, members_version=0)


async def found(store: AuditedStore, conversation_id: UUID, **how: Any) -> dict[Kind, str]:
    parts = [each async for each in audit.audit(store, conversation_id, **how)]
    return {finding.kind: finding.detail for each in parts for finding in each.findings}


async def change(backend: Backend, store: AuditedStore, statement: str, conversation_id: UUID, **values: Any) -> None:
    """`statement`: in the language of the store, with {conversation}."""
    if isinstance(store, CassandraHistory):
        keyspace = urlsplit(backend.where).path.strip("/")
        cql = statement.format(log=f"{keyspace}.message_log", heads=f"{keyspace}.conversation_heads", **values)
        await store._connection.session.execute(acsylla.create_statement(cql.replace("?", str(conversation_id))))
    else:
        with sqlite3.connect(backend.where) as db:
            db.execute(statement.format(log="message_log", **values), (conversation_id.bytes,))
        db.close()


async def remove(backend: Backend, store: AuditedStore, conversation_id: UUID, seq: int) -> None:
    in_bucket = f"bucket = {(seq - 1) // BUCKET_SIZE} AND lane = 0 AND " if isinstance(store, CassandraHistory) else ""
    statement = f"DELETE FROM {{log}} WHERE conversation_id = ? AND {in_bucket}seq = {seq}"
    await change(backend, store, statement, conversation_id)


@pytest.mark.parametrize("length", [0, 1, BUCKET_SIZE - 1, BUCKET_SIZE, BUCKET_SIZE + 1, 3 * BUCKET_SIZE])
async def test_what_the_store_did_by_itself_is_in_order(
    store: AuditedStore, conversation_id: UUID, length: int
) -> None:
    await say(store, conversation_id, length) if length else None
    parts = [each async for each in audit.audit(store, conversation_id, last_read_seq=length)]

    assert [finding for each in parts for finding in each.findings] == []
    assert sum(each.messages for each in parts) == length


async def test_nothing_is_found_while_people_go_on_chatting(
    backend: Backend, store: AuditedStore, conversation_id: UUID
) -> None:
    await say(store, conversation_id, 1)
    other = backend.store()
    await other.start()

    async def chat(writer: Any) -> None:
        for _ in range(40):
            await say(writer, conversation_id, 3)

    chatting = asyncio.gather(chat(store), chat(other))
    audits = 0
    while not chatting.done():
        assert await found(store, conversation_id) == {}
        audits += 1
    await chatting
    await other.close()
    assert audits > 1


@pytest.mark.parametrize(
    ("seq", "kind", "detail"),
    [
        (1, Kind.HOLE, "no message under 1"),
        (BUCKET_SIZE + 2, Kind.HOLE, f"no message under {BUCKET_SIZE + 2}"),
        (BUCKET_SIZE, Kind.OPENED, f"no message under {BUCKET_SIZE}, and the next part has some"),
    ],
)
async def test_a_message_that_is_gone_is_found(
    backend: Backend, store: AuditedStore, conversation_id: UUID, seq: int, kind: Kind, detail: str
) -> None:
    await say(store, conversation_id, 3 * BUCKET_SIZE + 1)
    await remove(backend, store, conversation_id, seq)

    assert (await found(store, conversation_id))[kind] == detail


async def test_a_member_who_has_read_too_far_is_found(store: AuditedStore, conversation_id: UUID) -> None:
    await say(store, conversation_id, 2)

    wrong = await found(store, conversation_id, last_read_seq=3)
    assert wrong == {Kind.COUNTER: "a member has read up to 3, and the newest message is 2"}


async def test_only_what_is_newer_is_looked_at(backend: Backend, store: AuditedStore, conversation_id: UUID) -> None:
    await say(store, conversation_id, 2 * BUCKET_SIZE)
    await remove(backend, store, conversation_id, 1)

    now = datetime.now(UTC)
    assert Kind.HOLE in await found(store, conversation_id, since=now - timedelta(hours=1))
    assert await found(store, conversation_id, since=now + timedelta(hours=1)) == {}


@pytest.mark.django_db(transaction=True)
async def test_a_log_that_the_database_does_not_know_is_found(store: AuditedStore, conversation_id: UUID) -> None:
    await say(store, conversation_id, BUCKET_SIZE + 1)

    strangers = [each async for each in audit.strangers(store) if each.conversation_id == conversation_id]
    assert [each.kind for each in strangers] == [Kind.STRANGER]


async def test_each_part_that_has_messages_is_listed_once(store: AuditedStore) -> None:
    conversations = {uuid4(): number for number in (1, BUCKET_SIZE, 2 * BUCKET_SIZE + 1)}
    for conversation_id, number in conversations.items():
        await say(store, conversation_id, number)

    listed = [each async for each in store.parts()]
    expected = {
        (each, part) for each, number in conversations.items() for part in range((number - 1) // BUCKET_SIZE + 1)
    }
    assert {each for each in listed if each[0] in conversations} == expected
    assert len(set(listed)) == len(listed)


ONLY_CASSANDRA = {
    "a repeat is not known again": (
        "DELETE FROM {log} WHERE conversation_id = ? AND bucket = 0 AND lane = 1 AND seq = 0 AND message_id = {third}",
        {Kind.UNKNOWN_REPEAT: "3"},
    ),
    "a repeat leads nowhere": (
        "INSERT INTO {log} (conversation_id, bucket, lane, seq, message_id, first_seq) VALUES (?, 0, 1, 0, {other}, 3)",
        {Kind.NO_MESSAGE: "another message or none under 3"},
    ),
    "the head is too high": (
        "UPDATE {log} SET last_seq = 14 WHERE conversation_id = ? AND bucket = 1",
        {Kind.HEAD: "the head is 14, and the newest message 11"},
    ),
    "the head is too low": (
        "UPDATE {log} SET last_seq = 10 WHERE conversation_id = ? AND bucket = 1",
        {Kind.HEAD: "the head is 10, and the newest message 11"},
    ),
    "the advice runs ahead": (
        "INSERT INTO {heads} (conversation_id, bucket) VALUES (?, 7)",
        {Kind.HEAD: "the newest messages are said to be in part 7, which has none"},
    ),
    "a bucket has only a head": (
        "UPDATE {log} SET last_seq = 17 WHERE conversation_id = ? AND bucket = 2",
        {Kind.HEAD: "the head is 17, and the newest message missing"},
    ),
}


@pytest.mark.services
@pytest.mark.parametrize("wound", ONLY_CASSANDRA)
@pytest.mark.parametrize("backend", ["cassandra"], indirect=True)
async def test_in_cassandra_what_is_kept_beside_the_messages_is_compared(
    backend: Backend, store: AuditedStore, conversation_id: UUID, wound: str
) -> None:
    said = await say(store, conversation_id, 11)
    statement, expected = ONLY_CASSANDRA[wound]
    third = Draft(conversation_id, said[2].sender_id, said[2].client_msg_id, "").message_id
    await change(backend, store, statement, conversation_id, third=third, other=uuid4())

    assert await found(store, conversation_id) == expected


@pytest.mark.services
@pytest.mark.parametrize("backend", ["cassandra"], indirect=True)
async def test_in_cassandra_a_message_that_two_buckets_have_is_found(
    backend: Backend, store: AuditedStore, conversation_id: UUID
) -> None:
    (first,) = await say(store, conversation_id, 1)
    await say(store, conversation_id, BUCKET_SIZE)
    # A retry that says it was first sent later than it was looks into too few buckets.
    again = Draft(conversation_id, first.sender_id, first.client_msg_id, "hello", after_seq=BUCKET_SIZE)
    assert [message.seq for message in await store.append([again], members_version=0)] == [BUCKET_SIZE + 2]

    assert await found(store, conversation_id) == {Kind.DOUBLE: "1 came again in a later part"}


@pytest.mark.services
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("backend", ["cassandra"], indirect=True)
async def test_in_cassandra_a_bucket_far_beyond_the_end_is_found(
    backend: Backend, store: AuditedStore, conversation_id: UUID
) -> None:
    await say(store, conversation_id, 2)
    statement = (
        "INSERT INTO {log} (conversation_id, bucket, lane, seq, message_id, sender_id, client_msg_id, kind, content, "
        "sent_at) VALUES (?, 5, 0, 41, {other}, {other}, {other}, 'text', '', 0)"
    )
    await change(backend, store, statement, conversation_id, other=uuid4())

    strangers = [each async for each in audit.strangers(store) if each.conversation_id == conversation_id]
    assert [(each.kind, each.detail) for each in strangers if each.kind is Kind.OPENED] == [
        (Kind.OPENED, f"part 5 has messages, and part 4 lacks {BUCKET_SIZE}")
    ]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_in_sqlite_an_index_that_does_not_know_a_message_is_found(
    backend: Backend, store: AuditedStore, conversation_id: UUID
) -> None:
    await say(store, conversation_id, 3)
    await store.close()
    with sqlite3.connect(backend.where) as db:  # the index of message_ids leads to an empty page
        db.execute("CREATE TABLE other (a BLOB UNIQUE, b, c)")
        (empty,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE tbl_name = 'other' AND type = 'index'"
        ).fetchone()
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_master WHERE tbl_name = 'other'")
        db.execute("UPDATE sqlite_master SET rootpage = ? WHERE type = 'index'", (empty,))
    db.close()
    await store.start()

    assert await found(store, conversation_id) == {Kind.UNKNOWN_REPEAT: "1, 2, 3"}


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_in_sqlite_a_message_under_a_foreign_id_is_found(
    backend: Backend, store: AuditedStore, conversation_id: UUID
) -> None:
    await say(store, conversation_id, 3)
    statement = "UPDATE {log} SET message_id = randomblob(16) WHERE conversation_id = ? AND seq = 2"
    await change(backend, store, statement, conversation_id)

    assert await found(store, conversation_id) == {Kind.IDENTITY: "2"}

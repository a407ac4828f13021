"""
The log's tables in memory, and a session that carries out exactly the statements that history/cassandra.py prepares.

One partition is one unit: a conditional batch is carried out whole or not at all, and when not, its answer has the rows
that were in the way, as Cassandra 5 gives them. tests/contract holds the statements against the real one.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

import acsylla
from acsylla import errors

from apps.conversations.history import cassandra
from apps.conversations.history.cassandra_connection import REQUEST_TIMEOUT_S
from tests.simulation.scheduler import Scheduler
from tests.simulation.services import Service

Row = tuple[Any, ...]
KEYSPACE = "chat"
MESSAGE_COLUMNS = 5  # sender_id, client_msg_id, kind, content, sent_at


class Rows(list[Row]):
    """As the driver gives them."""

    def __iter__(self) -> Any:
        return (SimpleNamespace(as_tuple=lambda row=row: row) for row in super().__iter__())


class Named(dict[str, Any]):
    def as_dict(self) -> dict[str, Any]:
        return self


class Partition:
    def __init__(self) -> None:
        self.last_seq: int | None = None
        self.members_version: int | None = None
        self.messages: dict[tuple[int, UUID], Row] = {}  # lane 0
        self.first_seqs: dict[UUID, int] = {}  # lane 1

    @property
    def statics(self) -> Row:
        return self.last_seq, self.members_version


class Added(NamedTuple):
    """One message of a batch, as the batch binds it."""

    seq: int
    message_id: UUID
    columns: Row


class Tables:
    def __init__(self) -> None:
        self.partitions: defaultdict[tuple[UUID, int], Partition] = defaultdict(Partition)
        self.heads: dict[UUID, int] = {}

    def statement(self, text: str) -> Callable[..., Any]:
        """What carries it out. Raises KeyError for one that this file does not know."""
        found: Callable[..., Any] = getattr(self, _statements()[text])
        return found

    def log(self, conversation_id: UUID) -> list[tuple[int, Row]]:
        """Every message of lane 0 by number, as a reader of the whole table finds them."""
        found = [
            (seq, row)
            for (conversation, _), partition in self.partitions.items()
            if conversation == conversation_id
            for (seq, _), row in partition.messages.items()
        ]
        return sorted(found, key=lambda each: each[0])

    # --- reading -----------------------------------------------------------------------------------------------------
    def _lane_0(self, conversation_id: UUID, bucket: int) -> list[Row]:
        found = self.partitions.get((conversation_id, bucket), _EMPTY)
        return sorted(((seq, *row) for (seq, _), row in found.messages.items()), key=lambda row: -row[0])

    def below(self, conversation_id: UUID, bucket: int, seq: int, limit: int) -> Rows:
        return Rows([row for row in self._lane_0(conversation_id, bucket) if row[0] < seq][:limit])

    def above(self, conversation_id: UUID, bucket: int, seq: int, limit: int) -> Rows:
        return Rows([row for row in self._lane_0(conversation_id, bucket)[::-1] if row[0] > seq][:limit])

    def at(self, conversation_id: UUID, bucket: int, seq: int) -> Rows:
        return Rows([row for row in self._lane_0(conversation_id, bucket) if row[0] == seq])

    def first_seq(self, conversation_id: UUID, bucket: int, message_id: UUID) -> Rows:
        found = self.partitions.get((conversation_id, bucket), _EMPTY).first_seqs.get(message_id)
        return Rows([] if found is None else [(found,)])

    def members_version(self, conversation_id: UUID, bucket: int) -> Rows:
        found = self.partitions.get((conversation_id, bucket))
        return Rows([] if found is None else [(found.members_version,)])

    def newest_bucket(self, conversation_id: UUID) -> Rows:
        return Rows([(self.heads[conversation_id],)] if conversation_id in self.heads else [])

    # --- writing -----------------------------------------------------------------------------------------------------
    def set_newest_bucket(self, conversation_id: UUID, bucket: int) -> Rows:
        self.heads[conversation_id] = bucket
        return Rows()

    def batch(self, last_seq: int, version: int, conversation_id: UUID, bucket: int, *rest: Any) -> list[Named]:
        partition = self.partitions[conversation_id, bucket]
        expected, added = rest[:2], _added(rest[2:])
        refusal = self._refusal(partition, expected, added)
        if refusal:
            return refusal
        partition.last_seq, partition.members_version = last_seq, version
        for each in added:
            partition.messages[each.seq, each.message_id] = each.columns
            partition.first_seqs[each.message_id] = each.seq
        return [Named({"[applied]": True})]

    def _refusal(self, partition: Partition, expected: Row, added: list[Added]) -> list[Named]:
        """What is in the way, if anything is."""
        known = [each.message_id for each in added if each.message_id in partition.first_seqs]
        if not known and partition.statics == expected:
            return []
        statics = {"[applied]": False, "last_seq": partition.last_seq, "members_version": partition.members_version}
        rows = [
            Named({"lane": 1, "message_id": str(each), "first_seq": partition.first_seqs[each], **statics})
            for each in known
        ]
        return rows or [Named({"lane": None, **statics})]


_EMPTY = Partition()


def _added(values: Row) -> list[Added]:
    """(conversation, bucket, seq, message, five columns, conversation, bucket, message, seq) of each message."""
    width = 4 + MESSAGE_COLUMNS + 4
    return [_message(values[start : start + width]) for start in range(0, len(values), width)]


def _message(values: Row) -> Added:
    _, _, seq, message_id, sender_id, client_msg_id, kind, content, sent_at, *_ = values
    return Added(seq, message_id, (str(sender_id), str(client_msg_id), kind, content, sent_at))


@cache
def _statements() -> dict[str, str]:
    known = {
        cassandra._BELOW: "below",
        cassandra._ABOVE: "above",
        cassandra._AT: "at",
        cassandra._FIRST_SEQ: "first_seq",
        cassandra._MEMBERS_VERSION: "members_version",
        cassandra._NEWEST_BUCKET: "newest_bucket",
        cassandra._SET_NEWEST_BUCKET: "set_newest_bucket",
    }
    known |= {cassandra._batch_of(messages): "batch" for messages in range(1, cassandra.MAX_GROUP + 1)}
    return {text.format(keyspace=KEYSPACE): name for text, name in known.items()}


class Session:
    def __init__(self, tables: Tables, service: Service) -> None:
        self._tables, self._service = tables, service

    async def create_prepared(self, text: str) -> Any:
        carry_out = self._tables.statement(text)
        return SimpleNamespace(bind=lambda values: (carry_out, tuple(values)))

    async def execute(self, bound: Any) -> Any:
        carry_out, values = bound
        return await self._service.ask(lambda: carry_out(*values), timeout_s=REQUEST_TIMEOUT_S)

    async def close(self) -> None: ...


def service(scheduler: Scheduler) -> Service:
    return Service(
        "Cassandra",
        scheduler,
        away=lambda: errors.CassErrorLibNoHostsAvailable("away"),
        lost=lambda: errors.CassErrorLibRequestTimedOut("lost"),
    )


def driver(session: Callable[[], Session]) -> Any:
    """What history/cassandra_connection.py uses of the module `acsylla`."""

    async def create_session() -> Session:
        return session()

    cluster = SimpleNamespace(create_session=create_session)
    return SimpleNamespace(create_cluster=lambda *_, **__: cluster, Consistency=acsylla.Consistency)

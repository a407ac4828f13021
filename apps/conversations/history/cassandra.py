"""
The log in Cassandra: one conditional batch in one partition gives a message its number and stores it.

A partition is a bucket of one conversation: bucket = (seq - 1) // bucket_size. It holds (see models.py)

  last_seq         static: the number given last
  members_version  static: the version of the members by whose word it was given (base.py)
  lane 0           the messages by number
  lane 1           message_id -> the number it got first; one row per message, never removed: makes repeating safe

The batch says: set last_seq and members_version IF they are still what we think, add the messages, add the lane 1 rows
IF NOT EXISTS. All of it happens or nothing, and in the second case Cassandra tells why:

  a lane 1 row     a repeat; the row says which number the message has
  only the static  others were faster; again, from that number, unless that version is newer than the caller's
  no answer        unknown; again. If it did happen, the lane 1 rows say so

What a process remembers of a head is a hint: a wrong one costs one such refusal. Bucket k + 1 is opened only on the
sight of last_seq at the end of k. So a full bucket is final, and a message sought in older buckets is there or nowhere.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import convert

from apps.conversations.history.audit import Part, Row
from apps.conversations.history.base import Contended, MembersChanged
from apps.conversations.history.cassandra_connection import DEADLINE_S, Connection, in_turns, pauses
from apps.conversations.messages import KINDS, Draft, Message

BUCKET_SIZE = 10_000  # messages, about 4 MB; never change it for a keyspace that has messages
MAX_GROUP = 32  # messages in one batch
MAX_GROUP_CHARS = 64_000  # and of content; a single message may be longer
MAX_HEADS = 50_000
REACH = 1_000  # messages that may be stored while a first try is held up, by a node that froze
AUDIT_PAGE = 500
LARGEST_BUCKET = 2**31 - 1

_PARTITION = "conversation_id = ? AND bucket = ?"
_COLUMNS = "seq, sender_id, client_msg_id, kind, content, sent_at"
_SELECT = f"SELECT {_COLUMNS} FROM {{keyspace}}.message_log WHERE {_PARTITION} AND lane = 0"
_BELOW = f"{_SELECT} AND seq < ? LIMIT ?"
_ABOVE = f"{_SELECT} AND seq > ? ORDER BY lane DESC, seq ASC LIMIT ?"
_AT = f"{_SELECT} AND seq = ?"
_FIRST_SEQ = (
    f"SELECT first_seq FROM {{keyspace}}.message_log WHERE {_PARTITION} AND lane = 1 AND seq = 0 AND message_id = ?"
)
_MEMBERS_VERSION = f"SELECT members_version FROM {{keyspace}}.message_log WHERE {_PARTITION} LIMIT 1"
_SET_LAST_SEQ = (
    f"UPDATE {{keyspace}}.message_log SET last_seq = ?, members_version = ? WHERE {_PARTITION}"
    " IF last_seq = ? AND members_version = ?;"
)
_ADD_MESSAGE = (
    "INSERT INTO {keyspace}.message_log"
    " (conversation_id, bucket, lane, seq, message_id, sender_id, client_msg_id, kind, content, sent_at)"
    " VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?);"
)
_ADD_FIRST_SEQ = (
    "INSERT INTO {keyspace}.message_log (conversation_id, bucket, lane, seq, message_id, first_seq)"
    " VALUES (?, ?, 1, 0, ?, ?) IF NOT EXISTS;"
)
# Advisory: in which bucket to begin looking for the head. Plain writes; it may lag behind.
_NEWEST_BUCKET = "SELECT bucket FROM {keyspace}.conversation_heads WHERE conversation_id = ?"
_SET_NEWEST_BUCKET = "INSERT INTO {keyspace}.conversation_heads (conversation_id, bucket) VALUES (?, ?)"

# For the audit. A page of messages begins with the number that the one before ended with: two might have the same.
_LAST_SEQ = f"SELECT last_seq FROM {{keyspace}}.message_log WHERE {_PARTITION} LIMIT 1"
_FIRST_SEQS = (
    f"SELECT message_id, first_seq FROM {{keyspace}}.message_log"
    f" WHERE {_PARTITION} AND lane = 1 AND seq = 0 AND message_id > ? LIMIT ?"
)
_ROWS = (
    f"SELECT seq, message_id, sender_id, client_msg_id, sent_at FROM {{keyspace}}.message_log"
    f" WHERE {_PARTITION} AND lane = 0 AND seq >= ? ORDER BY lane DESC, seq ASC LIMIT ?"
)
_PLACE = "token(conversation_id, bucket)"
_PARTITIONS = (
    f"SELECT DISTINCT conversation_id, bucket, {_PLACE} FROM {{keyspace}}.message_log WHERE {_PLACE} > ? LIMIT ?"
)


class _Head(NamedTuple):
    seq: int  # the last number given, 0 for none
    version: int  # of the members by whose word it was given


class _Decision(NamedTuple):
    """What Cassandra said to a batch."""

    applied: bool
    head: _Head | None = None  # None: the bucket has no messages
    repeats: Mapping[UUID, int] = {}  # message_id -> the number it has


class CassandraHistory:
    """`url`: as of Connection."""

    def __init__(self, url: str, *, bucket_size: int = BUCKET_SIZE, deadline_s: float = DEADLINE_S) -> None:
        self._connection = Connection(url, deadline_s)
        self._bucket_size = bucket_size
        self._heads = _Heads()

    async def start(self) -> None:
        await self._connection.start([_BELOW, _NEWEST_BUCKET, _batch_of(1)])

    async def close(self) -> None:
        await self._connection.close()

    async def ping(self) -> None:
        await self._connection.ask(_NEWEST_BUCKET, UUID(int=0))

    # --- writing -----------------------------------------------------------------------------------------------------
    async def append(self, drafts: Sequence[Draft], members_version: int, *, give_way: bool = False) -> list[Message]:
        ids = [draft.message_id for draft in drafts]
        async with self._connection.in_time():
            waiting = dict(zip(ids, drafts, strict=True))
            stored = await self._append(
                drafts[0].conversation_id, waiting, members_version, _gives_way() if give_way else _lets_others_pass()
            )
        return [stored[message_id] for message_id in ids]

    async def _append(
        self, conversation_id: UUID, waiting: dict[UUID, Draft], members_version: int, waits: Iterator[float]
    ) -> dict[UUID, Message]:
        """The whole algorithm; see the top of this file. `waits`: each after a batch that others were faster than."""
        head = await self._likely_head(conversation_id, members_version)
        stored: dict[UUID, Message] = {}
        searched = -1  # those before this bucket
        while waiting := {each: draft for each, draft in waiting.items() if each not in stored}:
            bucket = head.seq // self._bucket_size
            if bucket != searched:
                stored |= await self._find_earlier(conversation_id, waiting, head.seq)
                searched = bucket
                continue
            if head.version > members_version:
                raise MembersChanged(head.version)
            group = self._group(waiting, head.seq)
            now = _now()
            decision = await self._decide(conversation_id, bucket, head, group, members_version, now)
            if decision.applied:
                found = {each: _numbered(group[each], seq, now) for seq, each in enumerate(group, head.seq + 1)}
                if bucket and head.seq == self._end_of(bucket - 1):
                    await self._connection.run(_SET_NEWEST_BUCKET, conversation_id, bucket)
                head = _Head(head.seq + len(group), members_version)
            else:
                found = await self._at(conversation_id, bucket, decision.repeats)
                head = await self._corrected(conversation_id, head, decision.head, members_version)
            self._heads.saw(conversation_id, head.seq, head.version)
            stored |= found
            if not found:
                await asyncio.sleep(next(waits))
        return stored

    async def _likely_head(self, conversation_id: UUID, members_version: int) -> _Head:
        """A wrong number costs one refusal, and so does a wrong version: most likely it is the caller's own."""
        head = self._heads.get(conversation_id)
        if head % self._bucket_size:
            return _Head(head, self._heads.version_of(conversation_id, members_version))
        # Nothing known, or about to open a bucket: not on the word of a hint.
        found = await self._find_head(conversation_id)
        if found < head:
            self._heads.forget(conversation_id)
        return await self._with_version(conversation_id, found, members_version)

    async def _with_version(self, conversation_id: UUID, head: int, members_version: int) -> _Head:
        """Nothing refuses a wrong version in a bucket that is yet to be opened: it is that of the full one before."""
        if not head or head % self._bucket_size:
            return _Head(head, members_version if head else 0)
        full = await self._connection.run(_MEMBERS_VERSION, conversation_id, head // self._bucket_size - 1)
        return _Head(head, next(row.as_tuple()[0] for row in full))

    async def _corrected(
        self, conversation_id: UUID, thought: _Head, told: _Head | None, members_version: int
    ) -> _Head:
        if told is None or told.seq < thought.seq:  # the log is older than what we remember: restored from a backup
            self._heads.forget(conversation_id)
        if told is not None:
            return told
        found = await self._find_head(conversation_id)
        return await self._with_version(conversation_id, found, members_version)

    def _group(self, waiting: Mapping[UUID, Draft], head: int) -> dict[UUID, Draft]:
        """The first of those waiting, as many as fit in one batch and in the bucket."""
        room = min(MAX_GROUP, self._bucket_size - head % self._bucket_size)
        group: dict[UUID, Draft] = {}
        chars = 0
        for message_id, draft in waiting.items():
            chars += len(draft.content)
            if len(group) == room or (group and chars > MAX_GROUP_CHARS):
                break
            group[message_id] = draft
        return group

    async def _decide(
        self,
        conversation_id: UUID,
        bucket: int,
        head: _Head,
        group: Mapping[UUID, Draft],
        members_version: int,
        now: datetime,
    ) -> _Decision:
        expected = (None, None) if head.seq == bucket * self._bucket_size else head
        values: list[Any] = [head.seq + len(group), members_version, conversation_id, bucket, *expected]
        for seq, (message_id, draft) in enumerate(group.items(), head.seq + 1):
            message = (draft.sender_id, draft.client_msg_id, draft.kind.value, draft.content, now)
            values += (conversation_id, bucket, seq, message_id, *message, conversation_id, bucket, message_id, seq)
        rows = [row.as_dict() for row in await self._connection.run(_batch_of(len(group)), *values)]
        if rows[0]["[applied]"]:
            return _Decision(applied=True)
        repeats = {UUID(row["message_id"]): row["first_seq"] for row in rows if row.get("lane") == 1}
        last_seq = rows[0].get("last_seq")
        found = None if last_seq is None else _Head(last_seq, rows[0]["members_version"])
        return _Decision(False, found, repeats)

    async def _find_earlier(
        self, conversation_id: UUID, drafts: Mapping[UUID, Draft], head: int
    ) -> dict[UUID, Message]:
        """
        Those stored by another try, in an older bucket than the head's. (In that one the batch finds them.)

        A first try may have been held up so long that a second one, on another node, was stored before it.
        """
        places = [
            (message_id, bucket)
            for message_id, draft in drafts.items()
            for bucket in range(self._since(draft, head) // self._bucket_size, head // self._bucket_size)
        ]
        hits = await in_turns(
            self._connection.run(_FIRST_SEQ, conversation_id, bucket, each) for each, bucket in places
        )
        found: dict[UUID, Message] = {}
        for (message_id, bucket), rows in zip(places, hits, strict=True):
            for row in rows:
                found |= await self._at(conversation_id, bucket, {message_id: row.as_tuple()[0]})
        return found

    def _since(self, draft: Draft, head: int) -> int:
        return max(0, head - REACH) if draft.after_seq is None else draft.after_seq

    async def _at(self, conversation_id: UUID, bucket: int, seqs: Mapping[UUID, int]) -> dict[UUID, Message]:
        """The messages under these numbers, as answers to repeats."""
        results = await in_turns(self._connection.run(_AT, conversation_id, bucket, seq) for seq in seqs.values())
        return {
            message_id: _message(conversation_id, row, repeated=True)
            for message_id, rows in zip(seqs, results, strict=True)
            for row in rows
        }

    # --- reading -----------------------------------------------------------------------------------------------------
    async def before(self, conversation_id: UUID, seq: int | None, limit: int) -> list[Message]:
        if limit < 1:
            return []
        async with self._connection.in_time():
            return await self._before(conversation_id, seq, limit)

    async def _before(self, conversation_id: UUID, seq: int | None, limit: int) -> list[Message]:
        newest_first: list[Message] = []
        if seq is None:
            newest_first = await self._newest(conversation_id, limit)
            seq = newest_first[-1].seq if newest_first else 0
        elif seq > self._heads.get(conversation_id):
            seq = min(seq, await self._find_head(conversation_id) + 1)
        while seq > 1 and len(newest_first) < limit:
            bucket = (seq - 2) // self._bucket_size
            older = await self._below(conversation_id, bucket, seq, limit - len(newest_first))
            if not older:
                break
            newest_first += older
            seq = older[-1].seq
        return newest_first[::-1]

    async def after(self, conversation_id: UUID, seq: int, limit: int) -> list[Message]:
        found: list[Message] = []
        async with self._connection.in_time():
            for bucket in range(seq // self._bucket_size, LARGEST_BUCKET):
                if len(found) >= limit:
                    break
                rows = await self._connection.run(_ABOVE, conversation_id, bucket, seq, limit - len(found))
                found += (_message(conversation_id, row) for row in rows)
                if not found or found[-1].seq != self._end_of(bucket):
                    break  # the bucket is not full, so there is no next one
        if found:
            self._heads.saw(conversation_id, found[-1].seq)
        return found

    async def latest(self, conversation_ids: Collection[UUID]) -> Mapping[UUID, Message]:
        async with self._connection.in_time():
            newest = await in_turns(self._newest(each, 1) for each in conversation_ids)
        return {message.conversation_id: message for messages in newest for message in messages}

    async def _find_head(self, conversation_id: UUID) -> int:
        """The last number given, 0 for none."""
        newest = await self._newest(conversation_id, 1)
        return newest[0].seq if newest else 0

    async def _newest(self, conversation_id: UUID, limit: int) -> list[Message]:
        """Up to `limit` of the newest messages, newest first, of the bucket that the head is in."""
        if head := self._heads.get(conversation_id):
            bucket = (head - 1) // self._bucket_size
        else:
            rows = await self._connection.run(_NEWEST_BUCKET, conversation_id)
            bucket = next((row.as_tuple()[0] for row in rows), 0)
        end = self._bucket_size * LARGEST_BUCKET
        newest = await self._below(conversation_id, bucket, end, limit)
        while not newest and bucket:  # the advice was wrong: nothing is opened on its word
            bucket -= 1
            newest = await self._below(conversation_id, bucket, end, limit)
        while newest and newest[0].seq == self._end_of(bucket):
            bucket += 1
            newer = await self._below(conversation_id, bucket, end, limit)
            if not newer:
                break
            newest = newer
        if newest:
            self._heads.saw(conversation_id, newest[0].seq)
        return newest

    async def _below(self, conversation_id: UUID, bucket: int, seq: int, limit: int) -> list[Message]:
        rows = await self._connection.run(_BELOW, conversation_id, bucket, seq, limit)
        return [_message(conversation_id, row) for row in rows]

    def _end_of(self, bucket: int) -> int:
        return (bucket + 1) * self._bucket_size

    # --- for the audit -----------------------------------------------------------------------------------------------
    @property
    def part_size(self) -> int:
        return self._bucket_size

    async def part(self, conversation_id: UUID, number: int) -> Part:
        before = await self._last_seq(conversation_id, number)
        firsts = await self._first_seqs(conversation_id, number)
        rows = await self._rows(conversation_id, number)
        after = await self._last_seq(conversation_id, number)
        return Part(number * self._bucket_size + 1, self._end_of(number), rows, firsts, (before, after))

    async def _last_seq(self, conversation_id: UUID, bucket: int) -> int:
        rows = await self._connection.ask(_LAST_SEQ, conversation_id, bucket)
        return next((row.as_tuple()[0] for row in rows), None) or 0

    async def _first_seqs(self, conversation_id: UUID, bucket: int) -> dict[UUID, int]:
        found: dict[UUID, int] = {}
        last = UUID(int=0)
        while rows := [
            row.as_tuple() for row in await self._connection.ask(_FIRST_SEQS, conversation_id, bucket, last, AUDIT_PAGE)
        ]:
            found |= {UUID(message_id): first_seq for message_id, first_seq in rows}
            last = UUID(rows[-1][0])
        return found

    async def _rows(self, conversation_id: UUID, bucket: int) -> list[Row]:
        found: dict[tuple[int, str], Row] = {}
        last, known = 0, -1
        while len(found) > known:
            known = len(found)
            for row in await self._connection.ask(_ROWS, conversation_id, bucket, last, AUDIT_PAGE):
                last, message_id, sender_id, client_msg_id, sent_at = row.as_tuple()
                found[last, message_id] = Row(last, UUID(message_id), UUID(sender_id), UUID(client_msg_id), sent_at)
        return list(found.values())

    async def advised_part(self, conversation_id: UUID) -> int:
        return next((row.as_tuple()[0] for row in await self._connection.ask(_NEWEST_BUCKET, conversation_id)), 0)

    async def parts(self) -> AsyncIterator[tuple[UUID, int]]:
        token = -(2**63)
        while rows := [row.as_tuple() for row in await self._connection.ask(_PARTITIONS, token, AUDIT_PAGE)]:
            for conversation_id, bucket, token in rows:  # noqa: B007 the last one is where to go on
                yield UUID(conversation_id), bucket


class _Heads:
    """The last number known of the conversations used most recently. Never above the true one, often below."""

    def __init__(self) -> None:
        self._heads: OrderedDict[UUID, tuple[int, int | None]] = OrderedDict()

    def get(self, conversation_id: UUID) -> int:
        return self._heads.get(conversation_id, (0, None))[0]

    def version_of(self, conversation_id: UUID, default: int) -> int:
        version = self._heads.get(conversation_id, (0, None))[1]
        return default if version is None else version

    def saw(self, conversation_id: UUID, seq: int, version: int | None = None) -> None:
        """`version`: of the members, None where it was not read."""
        known = self._heads.get(conversation_id, (0, None))
        if seq > known[0] or (seq == known[0] and version is not None):
            self._heads[conversation_id] = (seq, version)
        self._heads.move_to_end(conversation_id)
        if len(self._heads) > MAX_HEADS:
            self._heads.popitem(last=False)

    def forget(self, conversation_id: UUID) -> None:
        self._heads.pop(conversation_id, None)


def _batch_of(messages: int) -> str:
    return f"BEGIN BATCH {_SET_LAST_SEQ} {(_ADD_MESSAGE + _ADD_FIRST_SEQ) * messages} APPLY BATCH"


def _lets_others_pass() -> Iterator[float]:
    return pauses(longest_s=0.08)  # one batch takes some 10 ms


def _gives_way() -> Iterator[float]:
    yield 0  # the first time it may just be that the remembered number was an old one
    raise Contended


def _numbered(draft: Draft, seq: int, sent_at: datetime) -> Message:
    return Message(draft.conversation_id, seq, draft.sender_id, draft.client_msg_id, draft.kind, draft.content, sent_at)


def _message(conversation_id: UUID, row: Any, *, repeated: bool = False) -> Message:
    seq, sender_id, client_msg_id, kind, content, sent_at = row.as_tuple()
    # convert() takes a third of what UUID(…) does, for each message of a page.
    sender_id, client_msg_id = _sender(sender_id), convert(client_msg_id, UUID)
    return Message(conversation_id, seq, sender_id, client_msg_id, KINDS[kind], content, sent_at, repeated)


@lru_cache(10_000)
def _sender(text: str) -> UUID:
    """The few who write a page, once each: the same objects are also compared faster."""
    return convert(text, UUID)


def _now() -> datetime:
    """As Cassandra keeps it: whole milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1_000 * 1_000)

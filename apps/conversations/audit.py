"""
The audit: walks the log of a conversation, newest part first, and says what is wrong with it.

Safe while people chat: what is read first is what may only grow, so that a message that comes meanwhile is no finding.
Memory is that of one part, however long the conversation is: which messages it has seen is kept in a file.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import closing
from datetime import datetime
from uuid import UUID

import msgspec
from django.db.models import Max, Q

from apps.conversations.database import in_db
from apps.conversations.history.audit import AuditedStore, Finding, Kind, Parts, Row, judge, listed
from apps.conversations.models import Conversation

AT_ONCE = 500  # conversations that are looked up together


class Audited(msgspec.Struct, frozen=True):
    """One part of one conversation has been looked at."""

    conversation_id: UUID
    messages: int
    findings: Sequence[Finding]


async def audit(
    store: Parts, conversation_id: UUID, last_read_seq: int = 0, since: datetime | None = None
) -> AsyncIterator[Audited]:
    """
    Part by part; with `since`, only down to the part whose newest message is older.

    `last_read_seq`: the highest of the members', as the database had it before. Raises Unavailable.
    """
    advised = await store.advised_part(conversation_id)
    newest = (await store.latest([conversation_id])).get(conversation_id)
    if since is not None and (newest is None or newest.sent_at < since):
        return
    head = 0 if newest is None else newest.seq
    if last_read_seq > head:
        detail = f"a member has read up to {last_read_seq}, and the newest message is {head}"
        yield Audited(conversation_id, 0, [Finding(Kind.COUNTER, conversation_id, detail)])
    top = max(head - 1, 0) // store.part_size + 1  # beyond the head: nothing may be there
    numbers = sorted({advised, *range(top + 1)}, reverse=True)
    has_later = False
    with closing(_Seen()) as seen:
        for number in numbers:
            part = await store.part(conversation_id, number)
            if since is not None and part.rows and part.rows[-1].sent_at < since:
                return
            findings = judge(conversation_id, part, has_later=has_later)
            if number == advised and number and not part.rows:
                detail = f"the newest messages are said to be in part {advised}, which has none"
                findings.append(Finding(Kind.HEAD, conversation_id, detail))
            if top > 1 and (twice := seen.again(part.rows)):
                detail = f"{listed(twice)} came again in a later part"
                findings.append(Finding(Kind.DOUBLE, conversation_id, detail))
            has_later = has_later or bool(part.rows)
            yield Audited(conversation_id, len(part.rows), findings)


async def strangers(store: AuditedStore) -> AsyncIterator[Finding]:
    """Whatever the store has that no walk over the database's conversations comes to. Raises Unavailable."""
    async for conversation_id, number in store.parts():
        if number and (gap := store.part_size - len((await store.part(conversation_id, number - 1)).rows)):
            detail = f"part {number} has messages, and part {number - 1} lacks {gap}"
            yield Finding(Kind.OPENED, conversation_id, detail)
        elif not number and not await in_db(Conversation.objects.filter(id=conversation_id).exists):
            yield Finding(Kind.STRANGER, conversation_id, "the database does not know it")


async def count(conversation_id: UUID | None = None) -> int:
    return 1 if conversation_id else await in_db(Conversation.objects.count)


async def conversations(conversation_id: UUID | None = None) -> AsyncIterator[list[tuple[UUID, int]]]:
    """Pages of conversations of the database, or one alone, with how far its members have read at most."""
    if conversation_id:
        yield await in_db(_page, Q(id=conversation_id)) or [(conversation_id, 0)]
        return
    last = UUID(int=0)
    while page := await in_db(_page, Q(id__gt=last)):
        yield page
        last = page[-1][0]


def _page(wanted: Q) -> list[tuple[UUID, int]]:
    rows = Conversation.objects.filter(wanted).order_by("id").annotate(read=Max("memberships__last_read_seq"))
    return [(conversation_id, read or 0) for conversation_id, read in rows.values_list("id", "read")[:AT_ONCE]]


class _Seen:
    """The message_ids of the later parts, in a temporary file."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE seen (message_id BLOB PRIMARY KEY) WITHOUT ROWID")

    def again(self, rows: Iterable[Row]) -> list[int]:
        """The numbers of those that had been seen; all of them are seen now."""
        self._db.execute("BEGIN")
        known = [
            row.seq
            for row in rows
            if not self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (row.message_id.bytes,)).rowcount
        ]
        self._db.execute("COMMIT")
        return known

    def close(self) -> None:
        self._db.close()

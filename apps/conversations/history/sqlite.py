"""
The log in one SQLite file: for the one-command run and for small installations.

One thread per process writes. It commits together what has queued up, whatever the conversation, so that one sync to
disk serves many messages. Several processes may write the same file: the number is taken inside the write transaction.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from msgspec import convert

from apps import failpoints
from apps.conversations.errors import Unavailable
from apps.conversations.history.audit import Part, Row
from apps.conversations.history.base import MembersChanged
from apps.conversations.messages import KINDS, Draft, Message

T = TypeVar("T")

MAX_COMMIT = 256  # requests in one transaction
DEADLINE_S = 5.0  # how long to wait for other processes' commits
LOOK_AGAIN_S = 0.0005  # whether they are done
READERS = 2
PART_SIZE = 10_000  # messages that an audit looks at together

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message_log (
    conversation_id BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    message_id      BLOB NOT NULL UNIQUE,
    sender_id       BLOB NOT NULL,
    client_msg_id   BLOB NOT NULL,
    kind            TEXT NOT NULL,
    content         TEXT NOT NULL,
    sent_at         INTEGER NOT NULL,  -- milliseconds since 1970
    members_version INTEGER NOT NULL,  -- by whose word it was sent
    PRIMARY KEY (conversation_id, seq)
) WITHOUT ROWID
"""
_COLUMNS = "seq, sender_id, client_msg_id, kind, content, sent_at"
_APPEND = """
INSERT INTO message_log
    (conversation_id, seq, message_id, sender_id, client_msg_id, kind, content, sent_at, members_version)
SELECT ?1, coalesce(newest.seq, 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
FROM (SELECT 1) LEFT JOIN (
    SELECT seq, members_version FROM message_log WHERE conversation_id = ?1 ORDER BY seq DESC LIMIT 1
) AS newest ON TRUE
WHERE coalesce(newest.members_version, 0) <= ?8
ON CONFLICT (message_id) DO NOTHING
RETURNING seq
"""
_VERSION = "SELECT members_version FROM message_log WHERE conversation_id = ? ORDER BY seq DESC LIMIT 1"
_BY_MESSAGE_ID = f"SELECT {_COLUMNS} FROM message_log WHERE message_id = ?"
_BEFORE = f"SELECT {_COLUMNS} FROM message_log WHERE conversation_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
_AFTER = f"SELECT {_COLUMNS} FROM message_log WHERE conversation_id = ? AND seq > ? ORDER BY seq LIMIT ?"
# The number again, this time by the index that finds repeats.
_PART = """
SELECT seq, message_id, sender_id, client_msg_id, sent_at,
    (SELECT repeat.seq FROM message_log AS repeat WHERE repeat.message_id = message_log.message_id)
FROM message_log WHERE conversation_id = ? AND seq BETWEEN ? AND ? ORDER BY seq
"""
_NEXT_PART = """
SELECT conversation_id, (seq - 1) / ?3 FROM message_log
WHERE (conversation_id, seq) > (?1, (?2 + 1) * ?3) ORDER BY conversation_id, seq LIMIT 1
"""


class _Request(NamedTuple):
    drafts: Sequence[Draft]
    members_version: int
    decided: "asyncio.Future[list[Message]]"


_Outcome = list[Message] | Exception


class SqliteHistory:
    part_size = PART_SIZE

    def __init__(self, path: Path, *, deadline_s: float = DEADLINE_S) -> None:
        self._path = path
        self._deadline_s = deadline_s
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()  # of the readers

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="history-read")
        try:
            await self._read(lambda db: db.execute(_SCHEMA))
        except Unavailable:
            await self.close()
            raise
        self._writer = threading.Thread(target=self._write_forever, name="history-write", daemon=True)
        self._writer.start()

    async def close(self) -> None:
        """What has been asked for is still done; what comes later is Unavailable."""
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        if writer is not None:
            self._requests.put(None)
            await self._loop.run_in_executor(None, writer.join)
        if readers is not None:
            await self._loop.run_in_executor(None, readers.shutdown)
        while not self._idle.empty():
            self._idle.get().close()

    async def append(self, drafts: Sequence[Draft], members_version: int, *, give_way: bool = False) -> list[Message]:
        """Never gives way: a process that waits for the file has lost nothing."""
        if self._writer is None:
            raise _unavailable("it is closed")
        request = _Request(drafts, members_version, self._loop.create_future())
        self._requests.put(request)
        return await request.decided

    async def before(self, conversation_id: UUID, seq: int | None, limit: int) -> list[Message]:
        below = 2**63 - 1 if seq is None else seq
        rows = await self._read(lambda db: db.execute(_BEFORE, (conversation_id.bytes, below, limit)).fetchall())
        return [_message(conversation_id, row) for row in reversed(rows)]

    async def after(self, conversation_id: UUID, seq: int, limit: int) -> list[Message]:
        rows = await self._read(lambda db: db.execute(_AFTER, (conversation_id.bytes, seq, limit)).fetchall())
        return [_message(conversation_id, row) for row in rows]

    async def latest(self, conversation_ids: Collection[UUID]) -> Mapping[UUID, Message]:
        def newest(db: sqlite3.Connection) -> list[tuple[UUID, tuple[Any, ...] | None]]:
            return [(each, db.execute(_BEFORE, (each.bytes, 2**63 - 1, 1)).fetchone()) for each in conversation_ids]

        found = await self._read(newest) if conversation_ids else []
        return {each: _message(each, row) for each, row in found if row is not None}

    async def ping(self) -> None:
        await self._read(lambda db: db.execute("SELECT 1").fetchone())

    # --- for the audit -----------------------------------------------------------------------------------------------
    async def part(self, conversation_id: UUID, number: int) -> Part:
        start, end = number * self.part_size + 1, (number + 1) * self.part_size
        found = await self._read(lambda db: db.execute(_PART, (conversation_id.bytes, start, end)).fetchall())
        rows = [
            Row(seq, UUID(bytes=message_id), UUID(bytes=sender_id), UUID(bytes=client_msg_id), _moment(sent_at))
            for seq, message_id, sender_id, client_msg_id, sent_at, _ in found
        ]
        firsts = {row.message_id: first for row, (*_, first) in zip(rows, found, strict=True) if first is not None}
        return Part(start, end, rows, firsts, heads=None)

    async def advised_part(self, conversation_id: UUID) -> int:
        """It takes no advice: the rows say which is the newest."""
        return 0

    async def parts(self) -> AsyncIterator[tuple[UUID, int]]:
        last: tuple[bytes, int] = (b"", 0)

        def following(db: sqlite3.Connection) -> tuple[bytes, int] | None:
            found: tuple[bytes, int] | None = db.execute(_NEXT_PART, (*last, self.part_size)).fetchone()
            return found

        while (found := await self._read(following)) is not None:
            last = found
            yield UUID(bytes=found[0]), found[1]

    # --- reading -----------------------------------------------------------------------------------------------------
    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._readers is None:
            raise _unavailable("it is closed")
        try:
            return await self._loop.run_in_executor(self._readers, self._read_now, query)
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    def _read_now(self, query: Callable[[sqlite3.Connection], T]) -> T:
        db = self._connect() if self._idle.empty() else self._idle.get()
        try:
            return query(db)
        finally:
            self._idle.put(db)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._deadline_s, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    # --- writing -----------------------------------------------------------------------------------------------------
    def _write_forever(self) -> None:
        connection: sqlite3.Connection | None = None
        while (first := self._requests.get()) is not None:
            batch = [first]
            outcomes: Sequence[_Outcome]
            try:
                connection = connection or self._connect()
                _begin(connection, self._deadline_s)
                batch += self._queued()
                outcomes = _commit(connection, batch)
            except sqlite3.Error as error:
                batch += self._queued()  # each of these would wait as long, one after the other
                outcomes = [_unavailable(error)] * len(batch)
                if connection is not None:
                    connection.close()
                connection = None
            except Exception as error:  # noqa: BLE001 the outermost loop of this thread: the callers hear of it, and it lives on
                outcomes = [error] * len(batch)
            self._loop.call_soon_threadsafe(_decide, batch, outcomes)
        if connection is not None:
            connection.close()

    def _queued(self) -> list[_Request]:
        """What has queued up by now."""
        queued: list[_Request] = []
        while len(queued) < MAX_COMMIT - 1 and not self._requests.empty():
            request = self._requests.get()
            if request is None:  # the end, after these
                self._requests.put(None)
                break
            queued.append(request)
        return queued


def _begin(connection: sqlite3.Connection, deadline_s: float) -> None:
    """
    As soon as no other process writes. Raises sqlite3.OperationalError.

    SQLite's own way of waiting is to sleep, for up to 100 ms at a time, while others come and write.
    """
    deadline = time.monotonic() + deadline_s
    connection.execute("PRAGMA busy_timeout = 0")  # the waiting is done here
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_AGAIN_S)
        else:
            return


def _commit(connection: sqlite3.Connection, requests: Iterable[_Request]) -> list[_Outcome]:
    """All of them in the transaction that has begun, or none."""
    try:
        now_ms = time.time_ns() // 1_000_000
        outcomes = [_append_all(connection, request, now_ms) for request in requests]
        failpoints.reached("committing")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return outcomes


def _append_all(connection: sqlite3.Connection, request: _Request, now_ms: int) -> _Outcome:
    try:
        return [_append(connection, draft, request.members_version, now_ms) for draft in request.drafts]
    except MembersChanged as error:  # then none of them was stored: they are all of one version
        return error


def _append(connection: sqlite3.Connection, draft: Draft, members_version: int, now_ms: int) -> Message:
    message_id = draft.message_id.bytes
    values = (
        draft.conversation_id.bytes,
        message_id,
        draft.sender_id.bytes,
        draft.client_msg_id.bytes,
        draft.kind.value,
        draft.content,
        now_ms,
        members_version,
    )
    row = connection.execute(_APPEND, values).fetchone()
    if row is None:
        earlier = connection.execute(_BY_MESSAGE_ID, (message_id,)).fetchone()
        if earlier is None:
            raise MembersChanged(connection.execute(_VERSION, (draft.conversation_id.bytes,)).fetchone()[0])
        return _message(draft.conversation_id, earlier, repeated=True)
    return Message(
        draft.conversation_id, row[0], draft.sender_id, draft.client_msg_id, draft.kind, draft.content, _moment(now_ms)
    )


def _decide(batch: Iterable[_Request], outcomes: Iterable[_Outcome]) -> None:
    for (_, _, decided), outcome in zip(batch, outcomes, strict=True):
        if decided.done():
            continue  # its caller went away
        if isinstance(outcome, Exception):
            decided.set_exception(outcome)
        else:
            decided.set_result(outcome)


def _message(conversation_id: UUID, row: tuple[Any, ...], *, repeated: bool = False) -> Message:
    seq, sender_id, client_msg_id, kind, content, sent_at = row
    # convert() takes half of what UUID(…) does, for each message of a page.
    sender_id, client_msg_id = _sender(sender_id), convert(client_msg_id.hex(), UUID)
    return Message(conversation_id, seq, sender_id, client_msg_id, KINDS[kind], content, _moment(sent_at), repeated)


@lru_cache(10_000)
def _sender(data: bytes) -> UUID:
    """The few who write a page, once each: the same objects are also compared faster."""
    return UUID(bytes=data)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _unavailable(reason: object) -> Unavailable:
    return Unavailable(f"The history did not decide in time: {reason}.", retry_after_ms=1_000)

"""The command that audits the history, as operators run it: on a file with some damage."""

import io
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command

from apps.conversations.history.sqlite import _SCHEMA, SqliteHistory
from apps.conversations.messages import Draft
from apps.conversations.models import Conversation, Membership
from tests.embedded import sign_up

pytestmark = pytest.mark.django_db(transaction=True)

NOON = 1_770_000_000_000  # milliseconds


@pytest.fixture
def history(settings: Any, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    settings.HISTORY_PATH = tmp_path / "history.sqlite3"
    connection = sqlite3.connect(settings.HISTORY_PATH, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(_SCHEMA)
    yield connection
    connection.close()


def fill(history: sqlite3.Connection, conversation_id: UUID, messages: int) -> None:
    sender = uuid4()

    def row(seq: int) -> tuple[Any, ...]:
        draft = Draft(conversation_id, sender, UUID(int=seq), "")
        said = (sender.bytes, draft.client_msg_id.bytes, "text", "hello", NOON + seq * 1_000, 0)
        return (conversation_id.bytes, seq, draft.message_id.bytes, *said)

    history.execute("BEGIN")
    history.executemany(f"INSERT INTO message_log VALUES ({'?,' * 8}?)", map(row, range(1, messages + 1)))
    history.execute("COMMIT")


def conversation(history: sqlite3.Connection, messages: int) -> UUID:
    row = Conversation.objects.create(kind=Conversation.Kind.GROUP, title="tea")
    fill(history, row.id, messages)
    return row.id


def audited(*arguments: str) -> tuple[int, list[str]]:
    """The exit code, and what it says."""
    out = io.StringIO()
    try:
        call_command("audit_history", *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue().splitlines()
    return 0, out.getvalue().splitlines()


def test_a_history_in_order_is_said_to_be(history: sqlite3.Connection) -> None:
    conversation(history, 3)
    conversation(history, 0)

    assert audited() == (0, ["2 conversations, 3 messages: nothing found"])


def test_what_is_wrong_is_one_line_each_and_an_exit_code(history: sqlite3.Connection) -> None:
    broken, whole = conversation(history, 5), conversation(history, 3)
    history.execute("DELETE FROM message_log WHERE conversation_id = ? AND seq = 2", (broken.bytes,))
    Membership.objects.create(conversation_id=broken, user=sign_up("ada").user, last_read_seq=9)

    code, lines = audited()
    assert code == 1
    assert sorted(lines) == [
        "2 conversations, 7 messages: 2 findings",
        f"counter: a member has read up to 9, and the newest message is 5 (conversation {broken})",
        f"hole: no message under 2 (conversation {broken})",
    ]
    assert audited("--conversation", str(whole)) == (0, ["1 conversations, 3 messages: nothing found"])
    assert audited("--conversation", str(broken))[0] == 1


def test_what_is_older_is_left_out(history: sqlite3.Connection) -> None:
    broken = conversation(history, 5)
    history.execute("DELETE FROM message_log WHERE conversation_id = ? AND seq = 2", (broken.bytes,))

    assert audited("--since", "2026-02-02T00:00Z")[0] == 1
    assert audited("--since", "2026-02-03") == (0, ["1 conversations, 0 messages: nothing found"])


def test_a_log_of_no_conversation_is_found_where_one_asks_for_all(history: sqlite3.Connection) -> None:
    stranger = uuid4()
    fill(history, stranger, 2)

    assert audited()[0] == 0
    code, lines = audited("--all")
    assert (code, lines[0]) == (1, f"stranger: the database does not know it (conversation {stranger})")


def test_a_history_that_cannot_be_read_is_another_exit_code(settings: Any, tmp_path: Path) -> None:
    settings.HISTORY_PATH = tmp_path / "missing" / "history.sqlite3"

    with pytest.raises(CommandError, match="did not decide") as failed:
        call_command("audit_history")
    assert failed.value.returncode == 2


@pytest.mark.parametrize("arguments", [("--since", "yesterday"), ("--conversation", "7")])
def test_an_argument_that_makes_no_sense_is_refused(arguments: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match=arguments[1]):
        call_command("audit_history", *arguments)


def test_memory_does_not_grow_with_the_length_of_a_conversation(
    history: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteHistory, "part_size", 1_000)
    conversation(history, 12_000)
    audited("--since", "2030-01-01")  # loads what is loaded once
    tracemalloc.start()
    try:
        assert audited() == (0, ["1 conversations, 12,000 messages: nothing found"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 5_000_000  # a part takes some 1.5 MB, all of them would take 16

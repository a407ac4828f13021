"""Who is told by a push, when, and in which words: a table of what is known, and what follows from it."""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from apps.push import policy
from apps.push.policy import Facts, News, QuietHours, Recipient, Silence

NOW = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)
NEWS = News(uuid4(), 7, uuid4(), uuid4())
ADA = Recipient(uuid4(), "ada", start_seq=1, last_read_seq=6)
NIGHT = QuietHours(time(22), time(7), "UTC")


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({}, None),
        ({"user_id": NEWS.sender_id}, Silence.OWN),
        ({"gone": True}, Silence.GONE),
        ({"start_seq": 8}, Silence.GONE),
        ({"start_seq": 7}, None),
        ({"last_read_seq": 7}, Silence.READ),
        ({"last_read_seq": 9}, Silence.READ),
        ({"blocked_sender": True}, Silence.BLOCKED),
        ({"muted_until": NOW + timedelta(seconds=1)}, Silence.MUTED),
        ({"muted_until": NOW}, None),
        ({"mentions_only": True}, Silence.NOT_MENTIONED),
        ({"quiet_hours": NIGHT}, Silence.QUIET),
        ({"quiet_hours": QuietHours(time(7), time(22), "UTC")}, None),
        ({"attentive": True}, Silence.PRESENT),
        ({"last_read_seq": 7, "attentive": True}, Silence.READ),
    ],
)
def test_who_is_told(known: dict[str, Any], reason: Silence | None) -> None:
    assert policy.silence(NEWS, msgspec.structs.replace(ADA, **known), NOW) is reason


def test_who_wants_mentions_only_is_told_of_those() -> None:
    ada = msgspec.structs.replace(ADA, mentions_only=True)
    assert policy.silence(msgspec.structs.replace(NEWS, mentions=frozenset({"ada"})), ada, NOW) is None
    assert (
        policy.silence(msgspec.structs.replace(NEWS, mentions=frozenset({"adam"})), ada, NOW) is Silence.NOT_MENTIONED
    )


@pytest.mark.parametrize(
    ("hours", "at", "quiet"),
    [
        (NIGHT, "2026-11-24T21:59", False),
        (NIGHT, "2026-11-24T22:00", True),
        (NIGHT, "2026-11-25T00:00", True),
        (NIGHT, "2026-11-25T06:59", True),
        (NIGHT, "2026-11-25T07:00", False),
        (QuietHours(time(12), time(13), "UTC"), "2026-11-24T12:30", True),
        (QuietHours(time(12), time(13), "UTC"), "2026-11-24T13:00", False),
        (QuietHours(time(22), time(7), "Asia/Tokyo"), "2026-11-24T12:59", False),
        (QuietHours(time(22), time(7), "Asia/Tokyo"), "2026-11-24T13:00", True),
        # Berlin's clock is put back from 03:00 to 02:00 at 01:00 UTC: the hour from two to three comes twice.
        (QuietHours(time(2), time(3), "Europe/Berlin"), "2026-10-24T23:59", False),
        (QuietHours(time(2), time(3), "Europe/Berlin"), "2026-10-25T00:30", True),
        (QuietHours(time(2), time(3), "Europe/Berlin"), "2026-10-25T01:30", True),
        (QuietHours(time(2), time(3), "Europe/Berlin"), "2026-10-25T02:00", False),
    ],
)
def test_quiet_hours_go_by_the_clock_on_the_wall(hours: QuietHours, at: str, quiet: bool) -> None:
    assert policy.is_quiet(hours, datetime.fromisoformat(at).replace(tzinfo=UTC)) is quiet


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("hello", set()),
        ("@ada hello", {"ada"}),
        ("hello @Ada, and (@bob)", {"ada", "bob"}),
        ("come here, @ada.", {"ada", "ada."}),
        ("ada@bob.example", set()),
        ("@@ada", set()),
        ("@x", set()),
        ("@bob_the-builder.2", {"bob_the-builder.2"}),
    ],
)
def test_who_is_mentioned(content: str, names: set[str]) -> None:
    assert policy.mentions_in(content) == names


def test_a_burst_is_one_push_in_five_seconds() -> None:
    assert policy.due_after_burst(None, NOW) == NOW
    assert policy.due_after_burst(NOW - timedelta(seconds=2), NOW) == NOW + timedelta(seconds=3)
    assert policy.due_after_burst(NOW - timedelta(seconds=9), NOW) == NOW


@pytest.mark.parametrize(
    ("attempts", "retry_after", "chance", "seconds"),
    [
        (1, None, 0.0, 1),
        (1, None, 1.0, 2),
        (4, None, 0.5, 8),
        (30, None, 1.0, 300),
        (10_000, None, 1.0, 300),
        (1, timedelta(seconds=40), 1.0, 40),
        (8, timedelta(seconds=2), 0.5, 128),
        (1, timedelta(seconds=-5), 0.0, 1),
        (1, timedelta(days=30), 1.0, 3_600),  # a provider may say so, and would silence the conversation meanwhile
    ],
)
def test_what_failed_comes_back_later_and_later(
    attempts: int, retry_after: timedelta | None, chance: float, seconds: int
) -> None:
    assert policy.due_after_failure(attempts, retry_after, chance, NOW) == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("level", "group", "count", "said"),
    [
        ("none", "", 1, ("Chat", "New message")),
        ("none", "Tea", 3, ("Chat", "3 new messages")),
        ("sender", "", 1, ("Bob", "New message")),
        ("sender", "", 2, ("Bob", "2 new messages")),
        ("sender", "Tea", 1, ("Tea", "New message from Bob")),
        ("sender", "Tea", 2, ("Tea", "2 new messages")),
        ("full", "", 1, ("Bob", "Are you there?")),
        ("full", "", 2, ("Bob (2)", "Are you there?")),
        ("full", "Tea", 1, ("Tea", "Bob: Are you there?")),
        ("full", "Tea", 2, ("Tea (2)", "Bob: Are you there?")),
    ],
)
def test_what_is_said(level: str, group: str, count: int, said: tuple[str, str]) -> None:
    assert policy.words(level, Facts("Bob", group, "Are\n  you there?", count)) == said


def test_less_is_said_where_either_wants_so() -> None:
    assert policy.least("full", "sender") == "sender"
    assert policy.least("none", "full") == "none"
    assert policy.least("full", "full") == "full"


def test_a_long_message_is_cut() -> None:
    shown = policy.preview("word " * 100)
    assert len(shown) <= policy.PREVIEW_CHARS
    assert shown.endswith("word…")
    assert policy.preview("x" * policy.PREVIEW_CHARS) == "x" * policy.PREVIEW_CHARS

"""
Who is told of a message by a push, when, and in which words. Pure: what is known, and `now`, are arguments.

The first reason for silence that holds is the one that is counted, in the order of `silence`.
"""

import re
from datetime import datetime, time, timedelta
from enum import StrEnum
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

LIFETIME = timedelta(hours=1)  # after which a message is no news any more
BURST = timedelta(seconds=5)  # between two pushes of one conversation to one device
MISCONFIGURED_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(minutes=5)
PREVIEW_CHARS = 200

CONTENT_LEVELS = ("none", "sender", "full")
APP_NAME = "Chat"

_MENTION = re.compile(r"(?<![\w.@-])@([a-z0-9][a-z0-9_.-]{2,31})", re.IGNORECASE | re.ASCII)


class Silence(StrEnum):
    """Why somebody is not told."""

    OWN = "own"
    GONE = "gone"
    READ = "read"
    BLOCKED = "blocked"
    MUTED = "muted"
    NOT_MENTIONED = "not mentioned"
    QUIET = "quiet hours"
    PRESENT = "present"


class News(msgspec.Struct, frozen=True):
    """A message, as far as it matters for who is told. What it says is not known here."""

    conversation_id: UUID
    seq: int
    sender_id: UUID
    client_msg_id: UUID
    mentions: frozenset[str] = frozenset()  # usernames, or what looks like one


class Notice(msgspec.Struct, frozen=True):
    """News for these people, as far as they have to be told; None: whoever is in the conversation."""

    news: News
    user_ids: list[UUID] | None


class QuietHours(msgspec.Struct, frozen=True):
    start: time
    end: time
    zone: str


class Recipient(msgspec.Struct, frozen=True):
    """A person who may have to be told, and what is known of them now."""

    user_id: UUID
    username: str
    start_seq: int
    last_read_seq: int
    gone: bool = False  # left the conversation, or the account is closed
    blocked_sender: bool = False
    muted_until: datetime | None = None
    mentions_only: bool = False
    quiet_hours: QuietHours | None = None
    content: str = "full"  # the most that they want said
    attentive: bool = False  # has a client open, and has used it lately


def silence(news: News, to: Recipient, now: datetime) -> Silence | None:
    """None: tell them."""
    if to.user_id == news.sender_id:
        return Silence.OWN
    if to.gone or news.seq < to.start_seq:
        return Silence.GONE
    if news.seq <= to.last_read_seq:
        return Silence.READ
    if to.blocked_sender:
        return Silence.BLOCKED
    if to.muted_until is not None and now < to.muted_until:
        return Silence.MUTED
    if to.mentions_only and to.username not in news.mentions:
        return Silence.NOT_MENTIONED
    if to.quiet_hours is not None and is_quiet(to.quiet_hours, now):
        return Silence.QUIET
    if to.attentive:
        return Silence.PRESENT
    return None


def is_quiet(hours: QuietHours, now: datetime) -> bool:
    """By the clock on the person's wall, whatever day it is and whichever way that clock was just turned."""
    local = now.astimezone(ZoneInfo(hours.zone)).time()
    if hours.start <= hours.end:
        return hours.start <= local < hours.end
    return local >= hours.start or local < hours.end


def mentions_in(content: str) -> frozenset[str]:
    """The usernames after an @. A full stop or hyphen at the end may belong to the sentence, so both are meant."""
    if "@" not in content:
        return frozenset()
    found = [name.lower() for name in _MENTION.findall(content)]
    return frozenset(found) | {name.rstrip(".-_") for name in found}


# --- when ------------------------------------------------------------------------------------------------------------
def due_after_burst(last_tried_at: datetime | None, now: datetime) -> datetime:
    """One push in 5 s per conversation and device; what comes meanwhile goes with the next."""
    return now if last_tried_at is None else max(now, last_tried_at + BURST)


def due_after_failure(attempts: int, retry_after: timedelta | None, chance: float, now: datetime) -> datetime:
    """`chance` is from 0 to 1: full jitter, so that what failed together does not come back together."""
    pause = chance * min(LONGEST_PAUSE, timedelta(seconds=2 ** min(attempts, 16)))
    return now + min(LIFETIME, max(pause, retry_after or timedelta(), timedelta(seconds=1)))


# --- in which words --------------------------------------------------------------------------------------------------
class Facts(msgspec.Struct, frozen=True):
    """What there is to say of the newest message that a push tells of."""

    sender_name: str
    group_title: str  # empty for a direct conversation
    content: str
    count: int  # messages that the push tells of


def least(*levels: str) -> str:
    """Of what a person wants said, and what the installation allows."""
    return min(levels, key=CONTENT_LEVELS.index)


def words(level: str, facts: Facts) -> tuple[str, str]:
    """Title and body at this level of content."""
    many = f"{facts.count} new messages" if facts.count > 1 else "New message"
    if level == "none":
        return APP_NAME, many
    title = facts.group_title or facts.sender_name
    if level == "sender":
        return title, f"{many} from {facts.sender_name}" if facts.group_title and facts.count == 1 else many
    if facts.count > 1:
        title = f"{title} ({facts.count})"
    text = preview(facts.content)
    return title, f"{facts.sender_name}: {text}" if facts.group_title else text


def preview(content: str) -> str:
    line = " ".join(content.split())
    return line if len(line) <= PREVIEW_CHARS else line[: PREVIEW_CHARS - 1].rstrip() + "…"

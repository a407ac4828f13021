"""
What an audit sees of the log, and what can be wrong with it.

It looks at one part at a time: the numbers of one bucket, which are read so that a part that grows meanwhile shows
nothing wrong. What every message promises must hold in it: its number is the next one, its message_id is that of its
sender and client_msg_id, the store knows under which number that message_id came first, and the head that the store
keeps apart is the newest number.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Protocol
from uuid import UUID

import msgspec

from apps.conversations.history.base import HistoryStore
from apps.conversations.messages import Draft, Message


class Row(msgspec.Struct, frozen=True):
    """A stored message, without what it says."""

    seq: int
    message_id: UUID
    sender_id: UUID
    client_msg_id: UUID
    sent_at: datetime


class Part(msgspec.Struct, frozen=True):
    """`heads`: the last number given, before and after the rest was read; None where the store keeps it in the rows."""

    start: int  # its lowest number
    end: int  # its highest, once it is full
    rows: Sequence[Row]  # lowest number first
    firsts: Mapping[UUID, int]  # message_id -> the number that it got; read before the rows
    heads: tuple[int, int] | None


class Parts(Protocol):
    """What the audit of one conversation reads."""

    @property
    def part_size(self) -> int: ...

    async def latest(self, conversation_ids: Collection[UUID]) -> Mapping[UUID, Message]: ...

    async def part(self, conversation_id: UUID, number: int) -> Part:
        """Part 0 has the numbers 1 to `part_size`. Raises Unavailable."""
        ...

    async def advised_part(self, conversation_id: UUID) -> int:
        """Where the store's own advice says that the newest message is; 0 where it has none. Raises Unavailable."""
        ...


class AuditedStore(HistoryStore, Parts, Protocol):
    def parts(self) -> AsyncIterator[tuple[UUID, int]]:
        """Each conversation and part that has anything, in no order. Raises Unavailable."""
        ...


class Kind(StrEnum):
    HOLE = "hole"  # a number without a message, and later ones have some
    DOUBLE = "double"  # one message under two numbers, or two under one
    HEAD = "head"  # the head, or the advice where to find it, is not where the newest message is
    OPENED = "opened"  # a part has messages although the one before is not full
    MISPLACED = "misplaced"  # a message in a part that has other numbers
    UNKNOWN_REPEAT = "unknown_repeat"  # a message that the store would not know again
    NO_MESSAGE = "no_message"  # a repeat would be answered with a number that has no such message
    IDENTITY = "identity"  # a message_id is not that of its sender and client_msg_id
    COUNTER = "counter"  # somebody has read what is not there yet
    STRANGER = "stranger"  # a log of a conversation that the database does not know


class Finding(msgspec.Struct, frozen=True):
    kind: Kind
    conversation_id: UUID
    detail: str  # numbers and ids, no content

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail} (conversation {self.conversation_id})"


def judge(conversation_id: UUID, part: Part, *, has_later: bool) -> list[Finding]:
    """`has_later`: a part after this one had messages before this one was read."""
    found = [*_numbers(part, has_later), *_heads(part), *_repeats(part), *_identities(conversation_id, part)]
    return [Finding(kind, conversation_id, detail) for kind, detail in found]


_Found = Iterator[tuple[Kind, str]]


def _numbers(part: Part, has_later: bool) -> _Found:
    seqs = [row.seq for row in part.rows]
    if astray := [seq for seq in seqs if not part.start <= seq <= part.end]:
        yield Kind.MISPLACED, f"{listed(astray)} in the part from {part.start} to {part.end}"
    if twice := [seq for seq, following in pairwise(seqs) if seq == following]:
        yield Kind.DOUBLE, f"two messages under {listed(twice)}"
    for before, after in pairwise([part.start - 1, *seqs]):
        if after > before + 1:
            yield Kind.HOLE, f"no message under {span(before + 1, after - 1)}"
    newest = seqs[-1] if seqs else part.start - 1
    if has_later and newest < part.end:
        yield Kind.OPENED, f"no message under {span(newest + 1, part.end)}, and the next part has some"


def _heads(part: Part) -> _Found:
    if part.heads is None:
        return
    newest = part.rows[-1].seq if part.rows else 0
    before, after = part.heads
    if before > newest:
        yield Kind.HEAD, f"the head is {before}, and the newest message {newest or 'missing'}"
    elif newest > after:
        yield Kind.HEAD, f"the head is {after}, and the newest message {newest}"


def _repeats(part: Part) -> _Found:
    seqs = {(row.message_id, row.seq) for row in part.rows}
    if nothing := [seq for message_id, seq in part.firsts.items() if (message_id, seq) not in seqs]:
        yield Kind.NO_MESSAGE, f"another message or none under {listed(nothing)}"
    settled = part.heads[0] if part.heads else part.end  # what came later may be missing among the firsts
    known = [(row, part.firsts.get(row.message_id)) for row in part.rows if row.seq <= settled]
    if unknown := [row.seq for row, first in known if first is None]:
        yield Kind.UNKNOWN_REPEAT, f"{listed(unknown)}"
    if twice := [row.seq for row, first in known if first not in (None, row.seq)]:
        yield Kind.DOUBLE, f"{listed(twice)} came earlier under another number"


def _identities(conversation_id: UUID, part: Part) -> _Found:
    wrong = [
        row.seq
        for row in part.rows
        if row.message_id != Draft(conversation_id, row.sender_id, row.client_msg_id, "").message_id
    ]
    if wrong:
        yield Kind.IDENTITY, f"{listed(wrong)}"


def span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def listed(seqs: Iterable[int]) -> str:
    some = sorted(seqs)
    more = f" and {len(some) - 5} more" if len(some) > 5 else ""
    return ", ".join(str(seq) for seq in some[:5]) + more

"""
Says what went wrong in a recorded run (history.py has the format), and which lines show it.

    lost         an acked message is not in the history, or not among what a member ought to see
    forgotten    a message that somebody had already got, or that an earlier reading held, is not in the history
    duplicate    one message has two numbers in the history, in two acks or in one view, or a view took it twice
    overwritten  one number has two messages, one of which is nowhere else
    gap          a number without a message in the history, or one that a view passed over
    reordered    two places disagree about the number of a message, a view or a reading goes back, or of two acked
                 messages of one outbox the one said first has the higher number
    phantom      a message that nobody sent, that was refused for good, or that names another sender
    unpushed     a member was nowhere when an acked message was sent, and no push speaks of it or of a later one

An unknown outcome (`info`, or `invoke` without an end) is neither acked nor refused: such a message may be there, once,
or not. The history of a conversation is its last complete reading (closed by `read`); nothing is said about loss in a
conversation that was never read, nor of what a member ought to see without a `view` line.

Each line is looked at once. What is kept grows with the messages and the views, not with what the views took.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, pairwise

from tests.consistency.history import Absent, Apply, Line, Push, Read, Send, Stored, View

MAX_LINES = 8  # that one violation names


class Name(StrEnum):
    LOST = "lost"
    FORGOTTEN = "forgotten"
    DUPLICATE = "duplicate"
    OVERWRITTEN = "overwritten"
    GAP = "gap"
    REORDERED = "reordered"
    PHANTOM = "phantom"
    UNPUSHED = "unpushed"


@dataclass(frozen=True)
class Violation:
    name: Name
    conversation: str
    detail: str
    lines: tuple[int, ...]  # from 1

    def __str__(self) -> str:
        where = ", ".join(str(line) for line in self.lines)
        return (
            f"{self.name}: {self.detail} (conversation {self.conversation}, line{'s' * (len(self.lines) > 1)} {where})"
        )


def check(lines: Iterable[Line]) -> list[Violation]:
    conversations: defaultdict[str, _Conversation] = defaultdict(_Conversation)
    for number, line in enumerate(lines, 1):
        conversations[line.conversation].take(number, line)
    return [
        Violation(name, conversation, detail, tuple(sorted(list(dict.fromkeys(shown))[:MAX_LINES])))
        for conversation, seen in conversations.items()
        for name, detail, shown in seen.violations()
    ]


_Finding = tuple[Name, str, Iterable[int]]  # the lines that matter most come first


@dataclass(slots=True)
class _Message:
    """What is known of one message. Lines are 0 for "never"."""

    client_msg_id: str
    sender: str | None = None
    invokes: int = 0
    invoked: int = 0
    unknown: bool = False  # an attempt was given up
    failed: int = 0
    acked: int = 0
    acked_as: int = 0
    taken: int = 0  # by a view, or by an earlier reading
    place: int = 0  # the number it was first seen under, and the line
    placed: int = 0
    elsewhere: dict[int, int] | None = None  # other numbers it was seen under -> the first line
    others_word: int = 0  # a line that names another sender
    system: bool = False

    @property
    def places(self) -> dict[int, int]:
        return {self.place: self.placed} | (self.elsewhere or {}) if self.place else {}

    def put(self, seq: int, number: int) -> None:
        if not self.place:
            self.place, self.placed = seq, number
        elif self.place != seq:
            self.elsewhere = {seq: number} | (self.elsewhere or {})

    @property
    def refused(self) -> bool:
        """For good: the one and only try was answered so."""
        return self.failed > 0 and self.invokes <= 1 and not self.unknown


class _Ranges:
    """Which numbers a view took, as ranges [start, end, line of the first, line of the last]; normally one."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[list[int]] = []

    @property
    def last(self) -> int:
        return self._ranges[-1][1] if self._ranges else 0

    @property
    def last_line(self) -> int:
        return self._ranges[-1][3]

    def __contains__(self, seq: int) -> bool:
        at = bisect_right(self._starts, seq) - 1
        return at >= 0 and seq <= self._ranges[at][1]

    def add(self, seq: int, line: int) -> None:
        at = bisect_right(self._starts, seq) - 1
        if at >= 0 and self._ranges[at][1] == seq - 1:
            self._ranges[at][1::2] = [seq, line]
        else:
            self._starts.insert(at + 1, seq)
            self._ranges.insert(at + 1, [seq, seq, line, line])

    def missing(self, first: int, last: int) -> Iterator[int]:
        """The numbers from first to last that it does not have."""
        at = max(0, bisect_right(self._starts, first) - 1)
        for start, end, _, _ in self._ranges[at:]:
            if start > last:
                break
            yield from range(first, start)
            first = max(first, end + 1)
        yield from range(first, last + 1)

    def holes(self) -> Iterator[tuple[int, int, int, int]]:
        """First and last number of each hole, and the lines before and after it."""
        for (_, end, _, before), (start, _, after, _) in pairwise(self._ranges):
            if end + 1 < start:
                yield end + 1, start - 1, before, after


@dataclass(slots=True)
class _View:
    member: str
    taken: _Ranges = field(default_factory=_Ranges)
    disagreed: set[int] = field(default_factory=set)  # numbers under which it has another message than was known


@dataclass(slots=True)
class _Conversation:
    messages: dict[str, _Message] = field(default_factory=dict)
    at: dict[int, str] = field(default_factory=dict)  # the message first seen under each number
    intruders: defaultdict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))  # -> the line
    outboxes: defaultdict[str, list[_Message]] = field(default_factory=lambda: defaultdict(list))  # as first sent
    views: dict[str, _View] = field(default_factory=dict)
    reading: dict[str, int] = field(default_factory=dict)  # the one under way: message -> line
    reading_at: int = 0
    history: dict[str, int] | None = None  # the last complete reading
    history_ends: int = 0
    read_line: int = 0
    due: list[tuple[int, View]] = field(default_factory=list)
    absences: list[tuple[int, Absent]] = field(default_factory=list)
    pushed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))  # member -> newest number
    newest: int = 0  # the highest number seen anywhere
    found: list[_Finding] = field(default_factory=list)
    doubled: set[str] = field(default_factory=set)

    # --- line by line ------------------------------------------------------------------------------------------------
    def take(self, number: int, line: Line) -> None:
        match line:
            case Send():
                self._take_send(number, line)
            case Apply():
                self._take_apply(number, line)
            case Stored():
                self._take_stored(number, line)
            case Read():
                self._take_read(number, line)
            case View():
                self.due.append((number, line))
            case Absent():
                self.absences.append((number, line))
            case Push():
                self.pushed[line.member] = max(self.pushed[line.member], line.seq)

    def _message(self, number: int, line: Send | Apply | Stored) -> _Message:
        message = self.messages.get(line.client_msg_id)
        if message is None:
            message = self.messages[line.client_msg_id] = _Message(line.client_msg_id, line.sender)
        elif message.sender != line.sender:
            message.others_word = message.others_word or number
        return message

    def _take_send(self, number: int, line: Send) -> None:
        message = self._message(number, line)
        match line.type:
            case "invoke":
                message.invokes += 1
                if message.invokes == 1:
                    message.invoked = number
                    self.outboxes[line.process].append(message)
            case "fail":
                message.failed = number
            case "info":
                message.unknown = True
            case "ok":
                assert line.seq is not None
                if message.acked and message.acked_as != line.seq:
                    detail = f"was acked as {message.acked_as} and as {line.seq}"
                    self._doubled(message, detail, message.acked, number)
                elif not message.acked:
                    message.acked, message.acked_as = number, line.seq
                self._place(message, line.seq, number)

    def _take_apply(self, number: int, line: Apply) -> None:
        view = self.views.setdefault(line.process, _View(line.member))
        message = self._message(number, line)
        message.system |= line.kind == "system"
        earlier = [seq for seq in message.places if seq in view.taken and seq not in view.disagreed]
        if earlier:
            self._doubled(message, f"was taken twice by {line.process}", message.places[earlier[0]], number)
        elif line.seq < view.taken.last:
            detail = f"{line.process} took {line.seq} after {view.taken.last}"
            self.found.append((Name.REORDERED, detail, [view.taken.last_line, number]))
        if not self._place(message, line.seq, number):
            view.disagreed.add(line.seq)
        if line.seq not in view.taken:
            view.taken.add(line.seq, number)
        message.taken = message.taken or number

    def _take_stored(self, number: int, line: Stored) -> None:
        message = self._message(number, line)
        message.system |= line.kind == "system"
        if line.client_msg_id in self.reading:
            self._doubled(message, "is in the history twice", self.reading[line.client_msg_id], number)
        if line.seq > self.reading_at + 1:
            self.found.append((Name.GAP, f"the history has no {_span(self.reading_at + 1, line.seq - 1)}", [number]))
        elif line.seq < self.reading_at:
            self.found.append((Name.REORDERED, f"the history has {line.seq} after {self.reading_at}", [number]))
        self.reading_at = line.seq
        self.reading[line.client_msg_id] = number
        self._place(message, line.seq, number)

    def _take_read(self, number: int, line: Read) -> None:
        if line.last_seq != self.reading_at:
            detail = f"the history ends at {self.reading_at}, and its head says {line.last_seq}"
            self.found.append((Name.GAP, detail, [number]))
        for client_msg_id, stored in (self.history or {}).items():
            message = self.messages[client_msg_id]
            message.taken = message.taken or stored
        self.history, self.reading = self.reading, {}
        self.history_ends, self.reading_at = self.reading_at, 0
        self.read_line = number

    def _place(self, message: _Message, seq: int, number: int) -> bool:
        """Whether this number is not known to be another message's."""
        message.put(seq, number)
        self.newest = max(self.newest, seq)
        if self.at.setdefault(seq, message.client_msg_id) == message.client_msg_id:
            return True
        self.intruders[seq].setdefault(message.client_msg_id, number)
        return False

    def _doubled(self, message: _Message, detail: str, *lines: int) -> None:
        self.doubled.add(message.client_msg_id)
        self.found.append((Name.DUPLICATE, f"{message.client_msg_id} {detail}", lines))

    # --- in the end --------------------------------------------------------------------------------------------------
    def violations(self) -> Iterator[_Finding]:
        yield from self.found
        for message in self.messages.values():
            yield from self._judge(message)
        yield from self._overwritten()
        for process, messages in self.outboxes.items():
            yield from self._out_of_order(process, [each for each in messages if each.acked])
        for process, view in self.views.items():
            yield from self._passed_over(process, view)
        yield from self._unseen()
        yield from self._unpushed()

    def _judge(self, message: _Message) -> Iterator[_Finding]:
        name = message.client_msg_id
        if message.places and not message.system:
            if not message.invokes:
                yield Name.PHANTOM, f"{name} was sent by nobody", message.places.values()
            elif message.refused:
                yield Name.PHANTOM, f"{name} was refused for good", [message.failed, *message.places.values()]
        if message.others_word:
            yield Name.PHANTOM, f"{name} has two senders", [message.invoked or message.placed, message.others_word]
        if len(message.places) > 1 and name not in self.doubled:
            yield Name.REORDERED, f"{name} has the numbers {_listed(message.places)}", message.places.values()
        sent = message.system or (message.invokes and not message.refused)
        if self.history is not None and sent and name not in self.history and (message.acked or message.taken):
            what, when = (Name.FORGOTTEN, message.taken) if message.taken else (Name.LOST, message.acked)
            yield what, f"{name} is not in the history", [*filter(None, (message.acked, when)), self.read_line]

    def _overwritten(self) -> Iterator[_Finding]:
        for seq, others in self.intruders.items():
            claims = {self.at[seq]: self.messages[self.at[seq]].places[seq]} | others
            keeps = next((each for each in claims if each in (self.history or {})), self.at[seq])
            gone = [each for each in claims if each != keeps and len(self.messages[each].places) == 1]
            if gone:
                yield Name.OVERWRITTEN, f"{seq} is {keeps}, and was {', '.join(gone)}", claims.values()

    def _out_of_order(self, process: str, acked: list[_Message]) -> Iterator[_Finding]:
        for before, after in pairwise(acked):
            if before.acked_as > after.acked_as:
                order = f"{before.client_msg_id} ({before.acked_as}) before {after.client_msg_id} ({after.acked_as})"
                lines = (before.invoked, before.acked, after.invoked, after.acked)
                yield Name.REORDERED, f"{process} said {order}", lines

    def _passed_over(self, process: str, view: _View) -> Iterator[_Finding]:
        for first, last, before, after in view.taken.holes():
            mine = [line for _, line in self.due if line.member == view.member]
            if not mine or any(line.from_seq <= last and first <= self._end_of(line) for line in mine):
                yield Name.GAP, f"{process} passed over {_span(first, last)}", [before, after]

    def _unseen(self) -> Iterator[_Finding]:
        views = defaultdict(list)
        for process, view in self.views.items():
            views[process].append(view.taken)
            views[view.member].append(view.taken)
        for number, line in self.due:
            who = line.process if line.process in self.views else line.member
            first, *others = views[who] or [_Ranges()]
            missing = (seq for seq in first.missing(line.from_seq, self._end_of(line)) if self._is_acked(seq))
            seqs = list(islice((seq for seq in missing if not any(seq in other for other in others)), MAX_LINES))
            if seqs:
                acks = (self.messages[self.at[seq]].acked for seq in seqs)
                yield Name.LOST, f"{who} never got {_listed(seqs)}", [number, *acks]

    def _unpushed(self) -> Iterator[_Finding]:
        for number, line in self.absences:
            message = self.messages.get(line.client_msg_id)
            if message is not None and self.pushed[line.member] < message.acked_as:
                detail = f"{line.member} was told of {message.client_msg_id} by no push"
                yield Name.UNPUSHED, detail, [message.acked, number]

    def _is_acked(self, seq: int) -> bool:
        return seq in self.at and self.messages[self.at[seq]].acked > 0

    def _end_of(self, line: View) -> int:
        end = self.newest if self.history is None else self.history_ends
        return end if line.to_seq is None else min(line.to_seq, end)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _listed(seqs: Iterable[int]) -> str:
    some = sorted(seqs)
    return ", ".join(str(seq) for seq in some[:4]) + " and more" * (len(some) > 4)

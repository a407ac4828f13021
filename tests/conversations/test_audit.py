"""What a part of the log must be, whatever the store: written out, and generated."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.conversations.history.audit import Kind, Part, Row, judge
from apps.conversations.messages import Draft

CONVERSATION, SENDER = uuid4(), uuid4()
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def row(seq: int, *, said: int = 0) -> Row:
    client_msg_id = UUID(int=said or seq)
    return Row(seq, Draft(CONVERSATION, SENDER, client_msg_id, "").message_id, SENDER, client_msg_id, NOON)


def part(*seqs: int, start: int = 1, kept_apart: bool = True) -> Part:
    """With room for eight."""
    rows = [row(seq) for seq in seqs]
    head = max(seqs, default=0)
    firsts = {each.message_id: each.seq for each in rows}
    return Part(start, start + 7, rows, firsts, (head, head) if kept_apart else None)


def changed(before: Part, **fields: object) -> Part:
    return msgspec.structs.replace(before, **fields)


GOOD = part(1, 2, 3)
FULL = part(*range(9, 17), start=9)


@pytest.mark.parametrize(
    ("good", "has_later"),
    [(GOOD, False), (FULL, False), (FULL, True), (part(), False), (part(9, start=9, kept_apart=False), False)],
)
def test_a_good_part_has_nothing_wrong(good: Part, has_later: bool) -> None:
    assert judge(CONVERSATION, good, has_later=has_later) == []


def test_what_comes_while_a_part_is_read_is_no_finding() -> None:
    grown = changed(part(1, 2, 3, 4, 5), heads=(2, 6), firsts=part(1, 2, 3).firsts)

    assert judge(CONVERSATION, grown, has_later=False) == []


@pytest.mark.parametrize(
    ("bad", "has_later", "kind", "detail"),
    [
        (part(1, 2, 5), False, Kind.HOLE, "no message under 3 to 4"),
        (part(2), False, Kind.HOLE, "no message under 1"),
        (part(9, 11, start=9), False, Kind.HOLE, "no message under 10"),
        (GOOD, True, Kind.OPENED, "no message under 4 to 8, and the next part has some"),
        (part(), True, Kind.OPENED, "no message under 1 to 8, and the next part has some"),
        (part(1, 2, start=9), False, Kind.MISPLACED, "1, 2 in the part from 9 to 16"),
        (changed(GOOD, heads=(4, 4)), False, Kind.HEAD, "the head is 4, and the newest message 3"),
        (changed(GOOD, heads=(2, 2)), False, Kind.HEAD, "the head is 2, and the newest message 3"),
        (changed(part(), heads=(2, 2)), False, Kind.HEAD, "the head is 2, and the newest message missing"),
        (changed(GOOD, firsts={}), False, Kind.UNKNOWN_REPEAT, "1, 2, 3"),
        (changed(GOOD, firsts=part(1, 2, 3, 4).firsts), False, Kind.NO_MESSAGE, "another message or none under 4"),
        (changed(GOOD, rows=[row(1), row(2), row(3, said=9)]), False, Kind.UNKNOWN_REPEAT, "3"),
        (changed(GOOD, rows=[row(1), row(2), row(3, said=1)]), False, Kind.DOUBLE, "3 came earlier"),
        (changed(GOOD, rows=[row(1), row(2), row(2, said=9), row(3)]), False, Kind.DOUBLE, "two messages under 2"),
        (changed(GOOD, rows=[msgspec.structs.replace(each, sender_id=uuid4()) for each in GOOD.rows]), False,
         Kind.IDENTITY, "1, 2, 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(bad: Part, has_later: bool, kind: Kind, detail: str) -> None:
    found = {finding.kind: finding.detail for finding in judge(CONVERSATION, bad, has_later=has_later)}

    assert found[kind].startswith(detail)


def test_many_findings_of_a_kind_are_one_line() -> None:
    (finding,) = judge(CONVERSATION, changed(part(*range(1, 9)), firsts={}), has_later=False)

    assert str(finding) == f"unknown_repeat: 1, 2, 3, 4, 5 and 3 more (conversation {CONVERSATION})"


@given(st.integers(1, 8), st.data())
def test_a_message_that_is_taken_away_is_always_missed(length: int, data: st.DataObject) -> None:
    whole = part(*range(1, length + 1))
    lost = data.draw(st.integers(0, length - 1))
    rows = [each for index, each in enumerate(whole.rows) if index != lost]

    kinds = {finding.kind for finding in judge(CONVERSATION, changed(whole, rows=rows), has_later=False)}
    assert Kind.NO_MESSAGE in kinds
    assert (Kind.HEAD if lost == length - 1 else Kind.HOLE) in kinds

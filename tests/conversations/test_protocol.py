"""The codec against the golden frames, which the browser's codec is held against too, and against rubbish."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.conversations import errors, protocol
from apps.conversations.errors import BadFrame, BadType, ChatError
from apps.conversations.protocol import Send, decode, encode, nack, nack_frame, rfc3339

FRAMES = {file.stem: json.loads(file.read_text()) for file in (Path(__file__).parent.parent / "frames").glob("*.json")}
COMMANDS = {name: frame for name, frame in FRAMES.items() if frame["type"] in protocol.COMMAND_TYPES}
EVENTS = {name: frame for name, frame in FRAMES.items() if name not in COMMANDS}
EVENT_TYPES = {
    event.__struct_config__.tag: event
    for event in (
        protocol.Hello,
        protocol.Ack,
        protocol.Nack,
        protocol.MessageCreated,
        protocol.ConversationUpdated,
        protocol.HeartbeatAck,
        protocol.Synced,
        protocol.Presence,
        protocol.Resync,
        protocol.Reconnect,
    )
}
CODES = {error.code: error for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "code")}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_golden_command_is_understood(name: str) -> None:
    command = decode(json.dumps(COMMANDS[name]))

    assert msgspec.to_builtins(command) == COMMANDS[name]


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_each_golden_event_is_what_we_encode(name: str) -> None:
    event = msgspec.convert(EVENTS[name], EVENT_TYPES[EVENTS[name]["type"]])

    assert json.loads(encode(event)) == EVENTS[name]


def test_every_command_event_and_error_has_a_golden_frame() -> None:
    assert {frame["type"] for frame in COMMANDS.values()} == protocol.COMMAND_TYPES
    assert {frame["type"] for frame in EVENTS.values()} == set(EVENT_TYPES)
    assert {frame["code"] for frame in EVENTS.values() if frame["type"] == "nack"} == set(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_golden_refusal_says_whether_to_try_again_as_the_error_does(code: str) -> None:
    assert FRAMES[f"nack.{code}"]["retry"] == CODES[code].retry


SEND: dict[str, Any] = {"type": "message.send", "client_msg_id": str(uuid4()), "to": "bob", "content": "hello"}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"client_msg_id": "7"}, "/client_msg_id"),
        ({"client_msg_id": 7}, "/client_msg_id"),
        ({"content": 7}, "/content"),
        ({"content": ""}, "/content"),
        ({"content": " \n\t "}, "/content"),
        ({"content": "a" * 8_001}, "/content"),
        ({"content": "a\x00b"}, "/content"),
        ({"to": None}, "/to"),
        ({"conversation_id": "x"}, "/conversation_id"),
        ({"conversation_id": str(uuid4())}, "/conversation_id"),  # and `to` as well
        ({"after_seq": -1}, "/after_seq"),
        ({"after_seq": 2**63}, "/after_seq"),
        ({"after_seq": 1.5}, "/after_seq"),
        ({"ref": {}}, "/ref"),
    ],
)
def test_a_refusal_names_the_field(change: dict[str, Any], pointer: str) -> None:
    with pytest.raises(BadFrame) as refused:
        decode(json.dumps(SEND | change))

    assert refused.value.pointer == pointer
    assert pointer.removeprefix("/") in refused.value.detail


@pytest.mark.parametrize(
    "frame", ["", "x", "[]", "7", "null", '"a"', "{}", '{"type": 7}', "[" * 5_000, '{"type":"sync"}']
)
def test_what_is_no_frame_is_refused(frame: str) -> None:
    with pytest.raises(BadFrame):
        decode(frame)


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(BadFrame):
        decode(json.dumps(SEND).replace("hello", "\\ud800"))


def test_an_unknown_type_is_told_apart_from_a_bad_frame() -> None:
    with pytest.raises(BadType):
        decode('{"type": "message.burn"}')


@pytest.mark.parametrize("cursors", [{"x": 1}, {str(uuid4()): -1}, {str(uuid4()): 2**63}, [], None])
def test_a_bad_cursor_is_refused(cursors: Any) -> None:
    with pytest.raises(BadFrame):
        decode(json.dumps({"type": "sync", "cursors": cursors}))


def test_too_many_cursors_or_watched_users_are_refused() -> None:
    ids = [str(uuid4()) for _ in range(1_001)]
    with pytest.raises(BadFrame):
        decode(json.dumps({"type": "sync", "cursors": dict.fromkeys(ids, 0)}))
    with pytest.raises(BadFrame):
        decode(json.dumps({"type": "presence.watch", "user_ids": ids[:501]}))


@pytest.mark.parametrize("number", [-1, 1_001, 1.5, "1", None])
def test_a_report_of_a_number_that_makes_no_sense_is_refused(number: Any) -> None:
    for report in ({"gap_repairs": number, "lost": 0}, {"gap_repairs": 0, "lost": number}):
        with pytest.raises(BadFrame):
            decode(json.dumps({"type": "report"} | report))


def test_content_is_trimmed_and_unknown_fields_are_ignored() -> None:
    command = decode(json.dumps(SEND | {"content": "  hello\n", "seq": 1, "sender": "eve"}))

    assert isinstance(command, Send)
    assert command.content == "hello"


def test_content_of_exactly_the_limit_is_fine() -> None:
    command = decode(json.dumps(SEND | {"content": "😀" * 8_000}))

    assert isinstance(command, Send)
    assert len(command.content) == 8_000


@given(st.text())
def test_no_text_at_all_does_more_than_be_refused(text: str) -> None:
    with pytest.raises(ChatError):
        decode(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_no_value_of_a_field_does_more_than_be_refused(value: Any) -> None:
    for field in ("client_msg_id", "content", "to", "ref", "after_seq"):
        try:
            decode(json.dumps(SEND | {field: value}))
        except ChatError as refused:
            nack_frame(refused, json.dumps(SEND | {field: value}))


def test_a_refusal_echoes_what_could_be_read() -> None:
    frame = json.dumps(SEND | {"content": "", "ref": "r1"})
    with pytest.raises(BadFrame) as refused:
        decode(frame)

    answer = nack_frame(refused.value, frame)
    assert (answer.ref, answer.client_msg_id) == ("r1", SEND["client_msg_id"])


def test_retry_after_is_said_only_where_there_is_one() -> None:
    assert b"retry_after_ms" not in encode(nack(errors.NotFound("no")))
    assert b'"retry_after_ms":700' in encode(nack(errors.RateLimited("slow", retry_after_ms=700)))


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 6_000, UTC)) == "2026-01-02T03:04:05.006Z"
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 999, UTC)) == "2026-01-02T03:04:05.000Z"
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 0, UTC)) == "2026-01-02T03:04:05.000Z"

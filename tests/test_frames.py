"""Frames of one whole message, held against a library that knows the whole protocol."""

import pytest
from websockets.frames import Frame, Opcode

from chatproject import frames


def _frame(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    """From a client."""
    return Frame(opcode, payload, fin).serialize(mask=True)


@pytest.mark.parametrize("text", ["", "a", "abc", "x" * 125, "y" * 126, "ü" * 500, "z" * 65_535])
def test_a_whole_text_frame_is_its_text(text: str) -> None:
    frame = _frame(text.encode())
    assert frames.whole_text(frame) == (text, len(frame))


def test_one_after_the_other() -> None:
    data = _frame(b"one") + _frame(b"two" * 100) + _frame(b"three")[:-1]
    first, at = frames.whole_text(data) or ("", 0)
    second, at = frames.whole_text(data, at) or ("", 0)
    assert (first, second) == ("one", "two" * 100)
    assert frames.whole_text(data, at) is None
    assert frames.whole_text(data, len(data)) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(_frame(b"hello")[:-1], id="not yet all of it"),
        pytest.param(_frame(b"hello")[:3], id="not yet its header"),
        pytest.param(_frame(b"y" * 200)[:7], id="not yet its text"),
        pytest.param(_frame(b"one", fin=False), id="the beginning of a message"),
        pytest.param(_frame(b"one", Opcode.CONT), id="the rest of a message"),
        pytest.param(_frame(b"one", Opcode.BINARY), id="binary"),
        pytest.param(_frame(b"one", Opcode.PING), id="a ping"),
        pytest.param(_frame(b"\x03\xe8", Opcode.CLOSE), id="a close"),
        pytest.param(bytes([_frame(b"one")[0] | 0x40]) + _frame(b"one")[1:], id="compressed"),
        pytest.param(b"\x81\x07one0000", id="not masked"),
        pytest.param(_frame(b"\xff\xfe"), id="not text"),
        pytest.param(_frame(b"x" * 65_536), id="64 KiB"),
        pytest.param(b"\x81\xfe\x00\x03" + bytes(4) + b"one", id="a length in more bytes than it needs"),
    ],
)
def test_anything_else_is_left_to_autobahn(data: bytes) -> None:
    assert frames.whole_text(data) is None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_what_goes_before_the_payload_of_a_server(size: int, opcode: Opcode) -> None:
    whole = Frame(opcode, bytes(size)).serialize(mask=False)
    assert frames.header(size, binary=opcode is Opcode.BINARY) == whole[: len(whole) - size]

"""
WebSocket frames as nearly all of them are: one whole message each (RFC 6455, section 5.2).

autobahn does this too, and everything else of the protocol; but piece by piece, at ten times the cost.
"""

import struct

_WHOLE_TEXT, _WHOLE_BINARY = 0x81, 0x82  # FIN, no extension, and the kind
_MASKED = 0x80
_MASK_BYTES = 4


def header(length: int, *, binary: bool = False) -> bytes:
    """What goes before a payload of so many bytes, from a server."""
    kind = _WHOLE_BINARY if binary else _WHOLE_TEXT
    if length < 126:
        return bytes((kind, length))
    if length < 65_536:
        return struct.pack("!BBH", kind, 126, length)
    return struct.pack("!BBQ", kind, 127, length)


def whole_text(data: bytes, at: int = 0) -> tuple[str, int] | None:
    """The text, and where it ends, if what begins there is a whole text frame of a client, below 64 KiB; else None."""
    if len(data) < at + 2 + _MASK_BYTES or data[at] != _WHOLE_TEXT or not data[at + 1] & _MASKED:
        return None
    length, start = data[at + 1] & ~_MASKED, at + 2
    if length == 126:
        length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        if length < 126:
            return None
    elif length == 127:
        return None
    end = start + _MASK_BYTES + length
    if len(data) < end:
        return None
    try:
        return _unmasked(data[start : start + _MASK_BYTES], data[start + _MASK_BYTES : end]).decode(), end
    except UnicodeDecodeError:
        return None


def _unmasked(mask: bytes, payload: bytes) -> bytes:
    """Each byte by that of the mask whose turn it is; as one large number, which Python does at the speed of C."""
    size = len(payload)
    repeated = (mask * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")

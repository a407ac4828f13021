"""
A WebSocket client that costs next to nothing: an asyncio protocol that masks text frames and cuts up what comes in.

It knows what the servers measured here say, and no more: whole text frames of any length, pings and closes; neither
extensions nor fragments.
"""

import asyncio
import base64
import os
from collections.abc import Callable, Mapping
from typing import cast

Listener = Callable[[bytes], None]

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
FIN = 0x80
MASKED = 0x80


class Refused(Exception):
    """No WebSocket came about; says what was answered, and after how long to try again."""

    def __init__(self, answer: str, retry_after_s: float = 0.0) -> None:
        super().__init__(answer)
        self.retry_after_s = retry_after_s


def frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A whole frame from client to server."""
    size = len(payload)
    if size < 126:
        head = bytes((FIN | opcode, MASKED | size))
    elif size < 65_536:
        head = bytes((FIN | opcode, MASKED | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, MASKED | 127)) + size.to_bytes(8, "big")
    pad = (mask * (size // 4 + 1))[:size]
    hidden = int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")
    return head + mask + hidden.to_bytes(size, "little")


def cut(data: bytes | bytearray) -> tuple[list[tuple[int, bytes]], int]:
    """The whole frames at the front of what a server sent, as (opcode, payload), and how many bytes they took."""
    frames, at, end = [], 0, len(data)
    while end - at >= 2:
        size, start = data[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif size == 127:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        if start + size > end:
            break
        if not data[at] & FIN:
            raise ValueError("a fragment, which this client does not put together")
        frames.append((data[at] & 0xF, bytes(data[start : start + size])))
        at = start + size
    return frames, at


class Socket(asyncio.Protocol):
    """One connection. `heard` is called with each text, at once; `closed` is done when the connection is gone."""

    def __init__(self, heard: Listener) -> None:
        self.heard = heard
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int] = loop.create_future()
        self.close_code = 1006
        self._mask = os.urandom(4)
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def say(self, text: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame(TEXT, text, self._mask))

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.write(frame(CLOSE, (1000).to_bytes(2, "big"), self._mask))
            self._transport.close()

    # --- asyncio's side ----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.opened.done():
            self.opened.set_exception(Refused(f"the connection was closed: {error}"))
        if not self.closed.done():
            self.closed.set_result(self.close_code)

    def data_received(self, data: bytes) -> None:
        if not self._buffer and self.opened.done():
            self._take(data)  # nearly always: nothing is left over from before
        else:
            self._buffer += data
            if self.opened.done() or self._upgraded():
                self._take(self._buffer)

    def _take(self, data: bytes | bytearray) -> None:
        frames, used = cut(data)
        self._buffer = bytearray(data[used:]) if used < len(data) else bytearray()
        for opcode, payload in frames:
            if opcode == TEXT:
                self.heard(payload)
            elif opcode == PING and self._transport is not None:
                self._transport.write(frame(PONG, payload, self._mask))
            elif opcode == CLOSE and self._transport is not None:
                self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
                self._transport.close()

    def _upgraded(self) -> bool:
        """Whether the answer to the handshake is in, and says yes."""
        head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not found:
            return False
        status = head.split(b" ", 2)[1]
        if status != b"101":
            later = head.lower().partition(b"retry-after: ")[2].partition(b"\r\n")[0]
            answer = f"the handshake was answered with {status.decode()}"
            self.opened.set_exception(Refused(answer, float(later or 0)))
            return False
        self._buffer = bytearray(rest)
        self.opened.set_result(None)
        return True


async def open_socket(host: str, port: int, path: str, headers: Mapping[str, str], heard: Listener) -> Socket:
    """Raises OSError, TimeoutError, Refused."""
    transport, socket = await asyncio.get_running_loop().create_connection(lambda: Socket(heard), host, port)
    key = base64.b64encode(os.urandom(16)).decode()
    ours = {"Host": f"{host}:{port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    lines = [f"{name}: {text}" for name, text in {**ours, "Sec-WebSocket-Key": key, **headers}.items()]
    transport.write("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
    try:
        await asyncio.wait_for(socket.opened, 30)
    except BaseException:
        transport.abort()
        raise
    return socket

"""
What goes out on one socket.

A frame is handed to the server at once where it can take it and nothing waits before it (ASGI's `send` would cost a
change of tasks for each frame, and encode it once more). Else it waits in the backlog, and a task sends what waits as
fast as the client reads. A client that does not read is closed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from apps.conversations.backlog import Backlog
from apps.presence import metrics, node

logger = logging.getLogger(__name__)

BEHIND_S = 30.0  # how long a client may need until it has read up to its `resync`
TOGETHER_S = 0.2  # how long an answer that need not come at once waits for others
MOST_TOGETHER = 64
LAST_WORDS_S = 1.0  # how long a client that is closed may need to read what says why

Send = Callable[[dict[str, Any]], Awaitable[None]]
WriteNow = Callable[..., bool]  # text frames; False: not now


class Outgoing:
    """From when the socket was accepted. `is_open` until it is closed from either side."""

    def __init__(self, send: Send, write_now: WriteNow | None) -> None:
        self.is_open = True
        self._send_event = send
        self._write_now = write_now
        self._backlog = Backlog(node.RESYNC_FRAME)
        self._something_waits = asyncio.Event()
        self._something_went = asyncio.Event()
        self._not_at_once: list[bytes] = []
        self._next_time: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._close_code = 1000
        self._writer: asyncio.Task[None] | None = None
        self._hanging_up: asyncio.Task[None] | None = None

    def begin(self, first: bytes) -> None:
        """Let out what waits, after this."""
        if not self.is_open:
            return
        self._backlog.add_answer(first, first=True)
        self._writer = asyncio.create_task(self._write())

    def push(self, frame: bytes) -> bool:
        """An event, which can be had again from the history. Returns whether it was taken."""
        if not self.is_open:
            return False
        if self._goes_now(frame):
            return True
        if not self._backlog.add_event(frame):
            metrics.overflows.labels("socket").inc()
            self._within(BEHIND_S)
        self._something_waits.set()
        return True

    def reply(self, frame: bytes) -> None:
        """An answer: nothing brings it again, so it is not forgotten."""
        if not self.is_open or self._goes_now(frame):
            return
        if self._backlog.add_answer(frame):
            self._something_waits.set()
        else:
            metrics.overflows.labels("answers").inc()
            self._give_up(4408)

    def reply_soon(self, frame: bytes) -> None:
        """An answer that says "later" anyway: of a flood of them, many go out together at the cost of one."""
        if not self.is_open:
            return
        self._not_at_once.append(frame)
        if len(self._not_at_once) >= MOST_TOGETHER:
            self._reply_together()
        elif self._next_time is None:
            self._next_time = asyncio.get_running_loop().call_later(TOGETHER_S, self._reply_together)

    def _reply_together(self) -> None:
        if self._next_time is not None:
            self._next_time.cancel()
            self._next_time = None
        frames, self._not_at_once = self._not_at_once, []
        if frames and not self._goes_now(*frames):
            for frame in frames:
                self.reply(frame)

    @property
    def has_room(self) -> bool:
        """Whether the client reads its answers."""
        return self._backlog.has_room

    async def room(self) -> bool:
        """Wait until the client has read enough of its answers; False when it is gone."""
        while self.is_open and not self.has_room:
            self._something_went.clear()
            await self._something_went.wait()
        return self.is_open

    def close(self, code: int) -> None:
        """After what is waiting to go out, as that may say why; does not wait for it."""
        if self.is_open:
            self._reply_together()
            self.is_open, self._close_code = False, code
            self._within(LAST_WORDS_S)
            self._wake()

    def end(self) -> None:
        """The client is gone."""
        self.is_open = False
        self._reply_together()
        self._within(None)
        writer, self._writer = self._writer, None  # the traceback of its CancelledError will hold this
        if writer is not None:
            writer.cancel()
        self._wake()

    # --- how it goes out ---------------------------------------------------------------------------------------------
    def _goes_now(self, *frames: bytes) -> bool:
        if self._write_now is None or self._writer is None or not self._backlog.is_empty:
            return False
        return self._write_now(*frames)

    async def _write(self) -> None:
        try:
            while self.is_open or not self._backlog.is_empty:
                while (frame := self._backlog.take()) is not None:
                    await self._send({"type": "websocket.send", "text": frame.decode()})
                    self._went()
                self._something_waits.clear()
                if self.is_open:
                    await self._something_waits.wait()
        except Exception:  # a socket that cannot be written to must not look as if it were quiet
            logger.exception("a socket could not be written to")
            self._close_code = 1013
        self.is_open = False
        self._within(None)
        await self._send({"type": "websocket.close", "code": self._close_code})

    def _went(self) -> None:
        was_behind = self._backlog.is_behind
        self._backlog.sent()
        self._something_went.set()
        if was_behind and not self._backlog.is_behind and self.is_open:
            self._within(None)

    def _within(self, seconds: float | None) -> None:
        """Let what waits go out within this time, or never mind; None: there is no hurry."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            code = 4408 if self.is_open else self._close_code
            self._deadline = asyncio.get_running_loop().call_later(seconds, self._give_up, code)

    def _give_up(self, code: int) -> None:
        """Close without what waits: the client does not read it."""
        logger.info("closed, as it does not read", extra={"code": code})
        self.end()
        self._hanging_up = asyncio.create_task(self._send({"type": "websocket.close", "code": code}))

    def _wake(self) -> None:
        """Let those who wait see the new state."""
        self._something_waits.set()
        self._something_went.set()

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._send_event(message)
        except OSError:
            self.is_open = False  # the client is gone; the disconnect event follows

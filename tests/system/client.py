"""
A client that does what docs/protocol.md asks of one: outbox, order and gaps, sync first, reconnect with full jitter.

It records what it was promised (`acked`) and what it saw (`views`), for the tests to compare.
"""

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

GAP_S = 0.3
BEAT_S = 10  # more often than the protocol asks for, so that tests need not wait for a minute
DEAD_AFTER_S = 10


@dataclass
class Pending:
    client_msg_id: str
    content: str
    after_seq: int
    tried: bool = False


@dataclass
class View:
    """One conversation as this client has it: `messages[i]` has seq i + 1."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    held: dict[int, dict[str, Any]] = field(default_factory=dict)
    outbox: deque[Pending] = field(default_factory=deque)

    @property
    def cursor(self) -> int:
        return len(self.messages)

    def take(self, message: dict[str, Any]) -> None:
        if message["seq"] > self.cursor:
            self.held[message["seq"]] = message
        while (following := self.held.pop(self.cursor + 1, None)) is not None:
            self.messages.append(following)


class ChatClient:
    def __init__(self, token: str, urls: list[str], conversations: list[str]) -> None:
        self._token = token
        self._urls = urls
        self.views = {conversation: View() for conversation in conversations}
        self.acked: dict[str, tuple[str, int]] = {}  # client_msg_id -> (conversation, seq)
        self.refused: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []  # everything that is not a message, newest last
        self.close_codes: list[int] = []
        self.node: str | None = None
        self._socket: ClientConnection | None = None
        self._attempt = 0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._beat_answered = asyncio.Event()
        self._synced = False
        self._tasks: set[asyncio.Future[None]] = set()

    # --- life --------------------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._stay_connected())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def say(self, conversation: str, content: str) -> str:
        view = self.views[conversation]
        pending = Pending(str(uuid4()), content, view.cursor)
        view.outbox.append(pending)
        if len(view.outbox) == 1 and self._synced:
            self._spawn_flush(conversation)
        return pending.client_msg_id

    async def until(self, condition: Any, seconds: float = 30) -> None:
        """Wait until `condition()` holds; it is asked after every frame."""
        deadline = time.monotonic() + seconds
        while not condition():
            self._changed.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"waited {seconds} s in vain")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 0.25))

    @property
    def settled(self) -> bool:
        return self._synced and not any(view.outbox or view.held for view in self.views.values())

    async def catch_up(self) -> None:
        cursors = {name: view.cursor for name, view in self.views.items()}
        await self._send({"type": "sync", "cursors": cursors, "ref": "sync"})

    # --- the connection ----------------------------------------------------------------------------------------------
    async def _stay_connected(self) -> None:
        wait_at_least = 0.0
        while True:
            backoff = random.uniform(0, min(30, 0.5 * 2**self._attempt)) if self._attempt else 0
            await asyncio.sleep(max(wait_at_least, backoff))
            self._attempt, wait_at_least = self._attempt + 1, 0.0
            with suppress(OSError, InvalidHandshake, TimeoutError):
                headers = {"Authorization": f"Bearer {self._token}"}
                async with connect(self._url(), additional_headers=headers, open_timeout=5) as socket:
                    self._socket = socket
                    started = time.monotonic()
                    wait_at_least = await self._converse(socket)
                    self._attempt = min(1, self._attempt) if time.monotonic() - started > 30 else self._attempt
            self._socket, self._synced = None, False

    def _url(self) -> str:
        return random.choice(self._urls)

    async def _converse(self, socket: ClientConnection) -> float:
        """Until the socket closes; returns how long to wait at least."""
        come_back_in = 0.0
        beating = asyncio.create_task(self._beat(socket))
        try:
            async for raw in socket:
                frame = json.loads(raw)
                if frame["type"] == "reconnect":
                    come_back_in = frame["after_ms"] / 1000
                await self._take(frame)
                self._changed.set()
        except ConnectionClosed:
            pass
        finally:
            beating.cancel()
        self.close_codes.append(socket.close_code or 1006)
        self._changed.set()
        return come_back_in

    async def _beat(self, socket: ClientConnection) -> None:
        await asyncio.sleep(random.uniform(0, BEAT_S))
        while True:
            self._beat_answered.clear()
            with suppress(ConnectionClosed):
                await socket.send('{"type":"heartbeat"}')
            try:
                await asyncio.wait_for(self._beat_answered.wait(), DEAD_AFTER_S)
            except TimeoutError:
                socket.transport.abort()
            await asyncio.sleep(BEAT_S)

    async def _send(self, frame: dict[str, Any]) -> None:
        if self._socket is not None:
            with suppress(ConnectionClosed):
                await self._socket.send(json.dumps(frame))

    # --- frames ------------------------------------------------------------------------------------------------------
    async def _take(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "message.created":
                self._take_message(frame["message"])
            case "ack":
                await self._take_ack(frame)
            case "nack":
                await self._take_nack(frame)
            case "synced":
                await self._take_synced(frame)
            case "heartbeat.ack":
                self._beat_answered.set()
            case "hello":
                self.node = frame["node_id"]
                await self.catch_up()
            case "resync":
                await asyncio.sleep(random.uniform(0, frame["spread_ms"] / 1000))
                await self.catch_up()
        if frame["type"] != "message.created":
            self.frames.append(frame)

    def _take_message(self, message: dict[str, Any]) -> None:
        view = self.views.get(message["conversation_id"])
        if view is not None:
            view.take(message)
            if view.held:
                asyncio.get_running_loop().call_later(GAP_S, self._close_gap, message["conversation_id"], view.cursor)

    def _close_gap(self, conversation: str, cursor: int) -> None:
        view = self.views[conversation]
        if view.held and view.cursor == cursor:
            self._spawn(self._send({"type": "sync", "cursors": {conversation: cursor}}))

    async def _take_ack(self, frame: dict[str, Any]) -> None:
        conversation = frame["conversation_id"]
        self.acked[frame["client_msg_id"]] = (conversation, frame["seq"])
        outbox = self.views[conversation].outbox
        if outbox and outbox[0].client_msg_id == frame["client_msg_id"]:
            outbox.popleft()
            await self._flush(conversation)

    async def _take_nack(self, frame: dict[str, Any]) -> None:
        self.refused.append(frame)
        if frame.get("ref") == "sync":
            wait_s = frame.get("retry_after_ms", 1_000) / 1_000
            asyncio.get_running_loop().call_later(wait_s, lambda: self._spawn(self.catch_up()))
        for conversation, view in self.views.items():
            if view.outbox and view.outbox[0].client_msg_id == frame.get("client_msg_id"):
                if frame["retry"]:
                    wait_s = frame.get("retry_after_ms", 500) / 1000
                    asyncio.get_running_loop().call_later(wait_s, self._spawn_flush, conversation)
                else:
                    view.outbox.popleft()
                    await self._flush(conversation)

    async def _take_synced(self, frame: dict[str, Any]) -> None:
        for entry in frame["conversations"]:
            for message in entry.get("messages", []):
                self._take_message(message)
        if any(entry.get("more") for entry in frame["conversations"]):
            await self.catch_up()
        elif not self._synced:
            self._synced = True
            for conversation in self.views:
                await self._flush(conversation)

    def _spawn_flush(self, conversation: str) -> None:
        self._spawn(self._flush(conversation))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self, conversation: str) -> None:
        """Send the oldest of what waits in a conversation: one in flight at a time."""
        view = self.views[conversation]
        if view.outbox:
            first = view.outbox[0]
            frame = {
                "type": "message.send",
                "client_msg_id": first.client_msg_id,
                "conversation_id": conversation,
                "content": first.content,
            }
            if first.tried:
                frame["after_seq"] = first.after_seq  # type: ignore[assignment]
            first.tried = True
            await self._send(frame)

"""
One WebSocket: frames in, frames out (docs/protocol.md, section 1).

Three things are kept apart so that none holds up another. Deliveries come from the hub straight into `push`, which
never waits; a heartbeat is answered as it comes in; what needs a store runs in the socket's own worker, in order, with
a bounded number waiting.
"""

import asyncio
import logging
import time
from collections import deque
from enum import Enum
from typing import Any
from uuid import uuid4

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from msgspec import UNSET
from structlog.contextvars import bind_contextvars

from apps import failpoints
from apps.accounts.aio import in_db
from apps.accounts.identity import Identity, identify
from apps.conversations import reads, services
from apps.conversations.errors import BadFrame, ChatError, Internal, Unavailable
from apps.conversations.messages import MAX_CONTENT_CHARS, Draft
from apps.conversations.protocol import (
    MAX_FRAME_BYTES,
    Ack,
    Command,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Limits,
    Presence,
    Send,
    Sync,
    Synced,
    Watch,
    decode,
    encode,
    nack,
    nack_frame,
    rfc3339,
)
from apps.presence import metrics, node
from apps.presence.status import HEARTBEAT_INTERVAL_S, OFFLINE_AFTER_S

logger = logging.getLogger(__name__)

MAX_WAITING_COMMANDS = 256
MAX_WAITING_FRAMES = 1_024  # above MAX_WATCHED_USERS, each of which is answered with a frame
ANSWERS = (b'{"type":"ack"', b'{"type":"nack"', b'{"type":"synced"')  # nothing brings these again
MAX_BAD_FRAMES = 20  # within a minute
FLOOD_FACTOR = 10  # frames per 10 s, in multiples of the send limit


_unfinished: set[asyncio.Task[None]] = set()


async def finish(seconds: float) -> None:
    """Give the commands that are being carried out, whose sockets may be gone, this long to come to their end."""
    if _unfinished:
        await asyncio.wait(_unfinished, timeout=seconds)


class State(Enum):
    NEW = "new"
    OPEN = "open"
    CLOSING = "closing"


class ChatConsumer(AsyncWebsocketConsumer):
    identity: Identity
    last_heard: float
    last_active: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._node = node.current()
        self._state = State.NEW
        self._commands: asyncio.Queue[Command] = asyncio.Queue(MAX_WAITING_COMMANDS)
        self._frames: deque[bytes] = deque()
        self._frames_ready = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._bad_frames: deque[float] = deque(maxlen=MAX_BAD_FRAMES)
        self._heard: deque[float] = deque(maxlen=FLOOD_FACTOR * settings.CHAT_SENDS_PER_10S or 1)

    # --- the ASGI side -----------------------------------------------------------------------------------------------
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Channels' own loop makes a task and a thread hop (to close database connections) for every frame."""
        self.scope, self.base_send = scope, send
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                await self.dispatch(message)
        finally:
            await self._leave()

    async def dispatch(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.receive":
            await self._receive(message.get("text"))
        else:
            await self._connect()

    async def _connect(self) -> None:
        try:
            identity = await in_db(identify, self.scope)
        except DatabaseError as error:
            logger.warning("nobody can be identified, as the database is away: %s", error)
            await self._turn_away(1013)
            return
        if identity is None:
            await self.base_send({"type": "websocket.close"})  # before the upgrade: HTTP 403
        elif self._node.draining:
            await self._turn_away(1012)
        elif len(self._node.hub.sockets_of(identity.person.id)) >= settings.CHAT_SOCKETS_PER_USER:
            await self._turn_away(4409)
        else:
            await self._enter(identity)

    async def _enter(self, identity: Identity) -> None:
        # In every line that this connection, or a task of it, logs from here on.
        bind_contextvars(connection=uuid4().hex[:12], session_id=identity.session_id, user_id=str(identity.person.id))
        self.identity = identity
        self.last_heard = self.last_active = time.monotonic()
        await self.accept()
        self._state = State.OPEN
        metrics.connects.inc()
        logger.info("connected")
        await self._node.add(self)
        # Only now: whoever syncs on `hello` has every later message delivered, and every earlier one in the answer.
        self._frames.appendleft(encode(self._hello()))
        self._workers = [asyncio.create_task(self._write()), asyncio.create_task(self._work())]

    async def _turn_away(self, code: int) -> None:
        await self.accept()
        await self.base_send({"type": "websocket.close", "code": code})

    async def close(self, code: int) -> None:
        """After what is waiting to go out, as that may say why."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            while self._frames:
                await self._send_frame(self._frames.popleft())
            await self._send({"type": "websocket.close", "code": code})

    async def _leave(self) -> None:
        for worker in self._workers:
            worker.cancel()
        if self._state is not State.NEW:
            self._state = State.NEW
            await self._node.remove(self)
            logger.info("disconnected")

    def _hello(self) -> Hello:
        return Hello(
            user=self.identity.person,
            session_id=self.identity.session_id,
            node_id=self._node.name,
            heartbeat_interval_ms=HEARTBEAT_INTERVAL_S * 1000,
            offline_after_ms=OFFLINE_AFTER_S * 1000,
            limits=Limits(MAX_CONTENT_CHARS, MAX_FRAME_BYTES, settings.CHAT_SENDS_PER_10S),
        )

    # --- out ---------------------------------------------------------------------------------------------------------
    def push(self, frame: bytes) -> bool:
        if self._state is not State.OPEN:
            return False
        if len(self._frames) >= MAX_WAITING_FRAMES:
            # It reads too slowly: forget the events that wait, and let it fetch them when it is ready.
            metrics.overflows.labels("socket").inc()
            self._frames = deque(waiting for waiting in self._frames if waiting.startswith(ANSWERS))
            frame = node.RESYNC_FRAME
        self._frames.append(frame)
        self._frames_ready.set()
        return True

    async def _write(self) -> None:
        try:
            while True:
                while self._frames:
                    await self._send_frame(self._frames.popleft())
                self._frames_ready.clear()
                await self._frames_ready.wait()
        except Exception:  # a socket that cannot be written to must not look as if it were quiet
            logger.exception("a socket could not be written to")
            self._state = State.CLOSING
            await self._send({"type": "websocket.close", "code": 1013})

    async def _send_frame(self, frame: bytes) -> None:
        await self._send({"type": "websocket.send", "text": frame.decode()})

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self.base_send(message)
        except OSError:
            self._state = State.CLOSING  # the client is gone; the disconnect event follows

    # --- in ----------------------------------------------------------------------------------------------------------
    async def _receive(self, text: str | None) -> None:
        if self._state is not State.OPEN:
            return
        self.last_heard = time.monotonic()
        if self._floods():
            await self.close(4429)
            return
        try:
            if text is None:
                raise BadFrame("Frames are text, not binary.")
            self._take(decode(text))
        except ChatError as error:
            await self._refuse(error, text)

    def _take(self, command: Command) -> None:
        metrics.frames_in.labels(type(command).__struct_config__.tag).inc()
        if isinstance(command, Heartbeat):
            if command.active is not False:  # a client that does not say is taken to be in use
                self._node.used(self)
            self.push(encode(HeartbeatAck(rfc3339(timezone.now()))))
            return
        try:
            self._commands.put_nowait(command)
        except asyncio.QueueFull:
            metrics.overflows.labels("commands").inc()
            raise Unavailable("Too much is waiting on this connection.", retry_after_ms=1_000) from None

    async def _refuse(self, error: ChatError, text: str | None) -> None:
        metrics.nacked.labels(error.code).inc()
        self.push(encode(nack_frame(error, text)))
        if isinstance(error, BadFrame):
            now = time.monotonic()
            self._bad_frames.append(now)
            if len(self._bad_frames) == MAX_BAD_FRAMES and now - self._bad_frames[0] < 60:
                await self.close(4400)

    def _floods(self) -> bool:
        if settings.CHAT_SENDS_PER_10S == 0:
            return False
        self._heard.append(self.last_heard)
        return len(self._heard) == self._heard.maxlen and self.last_heard - self._heard[0] < 10

    async def _work(self) -> None:
        while True:
            # What has begun is brought to its end, also when the socket closes: a stored message has to be delivered.
            answering = asyncio.create_task(self._answer(await self._commands.get()))
            _unfinished.add(answering)
            answering.add_done_callback(_unfinished.discard)
            await asyncio.shield(answering)

    async def _answer(self, command: Command) -> None:
        try:
            await self._carry_out(command)
        except ChatError as error:
            self._refuse_command(error, command)
        except Exception:  # the outermost place of a socket: a bug is answered, and the socket lives on
            bug = uuid4().hex[:12]
            logger.exception("a command failed", extra={"bug": bug})
            self._refuse_command(Internal(f"Something went wrong here (id {bug})."), command)

    async def _carry_out(self, command: Command) -> None:
        match command:
            case Send():
                await self._send_message(command)
            case Sync():
                self.push(encode(Synced(command.ref, await reads.sync(self.identity.person, command.cursors))))
            case Watch():
                await self._node.watch(self, frozenset(map(str, command.user_ids)))
                for out in await reads.presence_of(command.user_ids):
                    self.push(encode(Presence(out.user_id, out.status, out.last_seen_at)))

    async def _send_message(self, command: Send) -> None:
        failpoints.reached("received")
        self._node.used(self)
        sender = self.identity.person
        if command.conversation_id is not UNSET:
            conversation_id = command.conversation_id
        else:
            conversation_id, _ = await services.direct_conversation(sender, command.to)
        after_seq = None if command.after_seq is UNSET else command.after_seq
        draft = Draft(conversation_id, sender.id, command.client_msg_id, command.content, after_seq=after_seq)
        message = await services.send_message(draft)
        metrics.acked.inc()
        failpoints.reached("acking")
        self.push(
            encode(Ack(command.ref, message.client_msg_id, conversation_id, message.seq, rfc3339(message.sent_at)))
        )

    def _refuse_command(self, error: ChatError, command: Command) -> None:
        metrics.nacked.labels(error.code).inc()
        client_msg_id = str(command.client_msg_id) if isinstance(command, Send) else UNSET
        logger.info("refused", extra={"code": error.code, "client_msg_id": client_msg_id or None})
        self.push(encode(nack(error, ref=getattr(command, "ref", UNSET), client_msg_id=client_msg_id)))

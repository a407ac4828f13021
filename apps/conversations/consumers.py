"""
One WebSocket: frames in, frames out (docs/protocol.md, section 1).

Three things are kept apart so that none holds up another. Deliveries come from the hub straight into `push`, which
never waits; a heartbeat is answered as it comes in; what needs a store runs in the socket's own worker, in order, with
a bounded number waiting, and only while its client reads the answers.
"""

import asyncio
import logging
import time
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import Any, get_args
from uuid import UUID, uuid4

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils import timezone
from msgspec import UNSET
from structlog.contextvars import bind_contextvars

from apps import failpoints
from apps.accounts.aio import Together, per_loop
from apps.accounts.identity import Identity, identify
from apps.conversations import admission, reads, services
from apps.conversations.admission import Refusal
from apps.conversations.errors import BadFrame, ChatError, Internal, RateLimited, Unavailable
from apps.conversations.messages import MAX_CONTENT_CHARS, Draft
from apps.conversations.outgoing import Outgoing
from apps.conversations.protocol import (
    MAX_FRAME_BYTES,
    Ack,
    Command,
    Heartbeat,
    HeartbeatAck,
    Hello,
    Limits,
    Nack,
    Presence,
    Report,
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
from apps.conversations.throttle import Count
from apps.presence import metrics, node
from apps.presence.status import HEARTBEAT_INTERVAL_S, OFFLINE_AFTER_S

logger = logging.getLogger(__name__)

MAX_WAITING_COMMANDS = 256
TOO_LATE_S = 0.75  # what has waited longer is refused: an answer that comes later helps nobody
WATCHED_AT_ONCE = 100  # users whose status goes out together
MAX_BAD_FRAMES = 20  # within a minute
FLOOD_FACTOR = 10  # frames per 10 s, in multiples of the send limit


_BUSY = Unavailable("This node is busy; try again.", retry_after_ms=1_000)
_PUT_OFF = {queue: metrics.overflows.labels(queue) for queue in ("sends", "commands", "late")}
_FRAMES_IN = {kind: metrics.frames_in.labels(kind.__struct_config__.tag) for kind in get_args(Command)}
_NACKED_BUSY = metrics.nacked.labels(_BUSY.code)
_answering: set["ChatConsumer"] = set()


@per_loop
def _identities() -> Together[Any, Identity | None]:
    return Together(identify)


async def finish(seconds: float) -> None:
    """Give the commands that are being carried out, whose sockets may be gone, this long to come to their end."""
    workers = [consumer._worker for consumer in _answering if consumer._worker is not None]
    if workers:
        await asyncio.wait(workers, timeout=seconds)


class ChatConsumer(AsyncWebsocketConsumer):
    identity: Identity
    last_heard: float
    last_active: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._node = node.current()
        self._out: Outgoing | None = None  # from when it was accepted until the client is gone
        self._worker: asyncio.Task[None] | None = None
        self._commands: asyncio.Queue[tuple[Command, float] | None] = asyncio.Queue(MAX_WAITING_COMMANDS)
        self._sends = admission.door().sends
        self._questions = Count(time.monotonic())
        self._reports = Count(time.monotonic())
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
            self._receive(message.get("text"))
        else:
            await self._connect()

    @property
    def _extensions(self) -> dict[str, Any]:
        """What the server can do besides plain ASGI."""
        return self.scope.get("extensions") or {}

    async def _connect(self) -> None:
        refusal = await admission.refusal(self.scope, draining=self._node.draining)
        if refusal is None:
            await self._identify()
        else:
            await self._refuse_handshake(refusal)

    async def _refuse_handshake(self, refusal: Refusal) -> None:
        metrics.refused.labels(refusal.reason).inc()
        if "websocket.http.response" in self._extensions:
            headers = [(b"retry-after", str(refusal.retry_after_s).encode())]
            start = {"type": "websocket.http.response.start", "status": refusal.status, "headers": headers}
            await self.base_send(start)
            await self.base_send({"type": "websocket.http.response.body", "body": b""})
        else:
            await self._turn_away(refusal.close_code)

    async def _identify(self) -> None:
        try:
            async with admission.door().handshake():
                identity = await _identities().ask(self.scope)
        except TimeoutError:
            await self._refuse_handshake(admission.later("handshakes"))
            return
        except (DatabaseError, InterfaceError) as error:
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
        self._out = Outgoing(self.base_send, self._extensions.get("chat.write_now"))
        metrics.connects.inc()
        admission.door().sockets += 1
        logger.info("connected")
        await self._node.add(self)
        # Only now: whoever syncs on `hello` has every later message delivered, and every earlier one in the answer.
        self._out.begin(encode(self._hello()))
        self._worker = asyncio.create_task(self._work(self._out))
        if (read_now := self._extensions.get("chat.read_now")) is not None:
            read_now(partial(copy_context().run, self._receive))

    async def _turn_away(self, code: int) -> None:
        await self.accept()
        await self.base_send({"type": "websocket.close", "code": code})

    async def close(self, code: int) -> None:
        """After what is waiting to go out, as that may say why; does not wait for it."""
        self._close(code)

    def _close(self, code: int) -> None:
        if self._out is not None:
            self._out.close(code)

    def push(self, frame: bytes) -> bool:
        return self._out is not None and self._out.push(frame)

    async def _leave(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            out.end()
            self._forget_commands()
            self._commands.put_nowait(None)  # the end, for a worker that waits
            admission.door().sockets -= 1
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

    # --- in ----------------------------------------------------------------------------------------------------------
    def _receive(self, text: str | None) -> None:
        if self._out is None or not self._out.is_open:
            return
        self.last_heard = time.monotonic()
        if self._floods():
            self._close(4429)
            return
        try:
            if text is None:
                raise BadFrame("Frames are text, not binary.")
            self._take(decode(text))
        except ChatError as error:
            self._refuse(error, text)

    def _take(self, command: Command) -> None:
        _FRAMES_IN[type(command)].inc()
        if isinstance(command, Heartbeat):
            if command.active is not False:  # a client that does not say is taken to be in use
                self._node.used(self)
            self._reply(encode(HeartbeatAck(rfc3339(timezone.now()))))
            return
        if isinstance(command, Report):
            self._take_report(command)
            return
        if isinstance(command, Send) and not (self._is_read and self._sends.lets_in(self.last_heard)):
            self._put_off(command, "sends")
        elif self._commands.full():
            self._put_off(command, "commands")
        else:
            self._commands.put_nowait((command, self.last_heard))
            if isinstance(command, Send):
                self._sends.begin(self.last_heard)

    def _put_off(self, command: Command, queue: str) -> None:
        """Refuse a command for now. It is not logged: there may be many, and this has to cost next to nothing."""
        _PUT_OFF[queue].inc()
        _NACKED_BUSY.inc()
        if self._out is not None:
            self._out.reply_soon(encode(_nack(_BUSY, command)))

    @property
    def _is_read(self) -> bool:
        return self._out is not None and self._out.has_room

    def _put_off_sends(self) -> None:
        """Of a client that does not read: what waits for it must not count against the others."""
        now = time.monotonic()
        for _ in range(self._commands.qsize()):
            waiting = self._commands.get_nowait()
            if waiting is not None and isinstance(waiting[0], Send):
                self._sends.end(now, now, answered=False)
                self._put_off(waiting[0], "sends")
            else:
                self._commands.put_nowait(waiting)

    def _forget_commands(self) -> None:
        now = time.monotonic()
        while not self._commands.empty():
            waiting = self._commands.get_nowait()
            if waiting is not None and isinstance(waiting[0], Send):
                self._sends.end(now, now, answered=False)

    def _take_report(self, report: Report) -> None:
        """What a client had to mend. It has no answer, and may come once in 10 s: anybody can say anything."""
        if wait_s := self._reports.take(1, self.last_heard):
            raise RateLimited("Reports are taken once in 10 s.", retry_after_ms=int(wait_s * 1_000))
        metrics.client_gap_repairs.inc(report.gap_repairs)
        metrics.client_lost.inc(report.lost)
        if report.lost:
            logger.error("a client misses acked messages of its own", extra={"lost": report.lost})

    def _reply(self, frame: bytes) -> None:
        if self._out is not None:
            self._out.reply(frame)

    def _refuse(self, error: ChatError, text: str | None) -> None:
        metrics.nacked.labels(error.code).inc()
        self._reply(encode(nack_frame(error, text)))
        if isinstance(error, BadFrame):
            now = time.monotonic()
            self._bad_frames.append(now)
            if len(self._bad_frames) == MAX_BAD_FRAMES and now - self._bad_frames[0] < 60:
                self._close(4400)

    def _floods(self) -> bool:
        if settings.CHAT_SENDS_PER_10S == 0:
            return False
        self._heard.append(self.last_heard)
        return len(self._heard) == self._heard.maxlen and self.last_heard - self._heard[0] < 10

    async def _work(self, out: Outgoing) -> None:
        """What has begun is brought to its end, also when the socket closes: a stored message has to be delivered."""
        while await self._until_it_reads(out) and (waiting := await self._commands.get()) is not None:
            command, asked_at = waiting
            if not isinstance(command, Send):
                await self._slow_down()
                if not out.is_open:
                    return
            elif (now := time.monotonic()) - asked_at > TOO_LATE_S:
                self._sends.end(asked_at, now, answered=True)
                self._put_off(command, "late")
                continue
            _answering.add(self)
            await self._answer(command, asked_at)
            _answering.discard(self)

    async def _until_it_reads(self, out: Outgoing) -> bool:
        if not out.has_room:
            self._put_off_sends()
        return await out.room()

    async def _slow_down(self) -> None:
        """What only reads costs more than a message, so one connection may do no more of it; it waits for its turn."""
        limit = settings.CHAT_SENDS_PER_10S
        if limit and (wait_s := self._questions.take(limit, time.monotonic())):
            await asyncio.sleep(wait_s)
            self._questions.take(limit, time.monotonic())

    async def _answer(self, command: Command, begun: float) -> None:
        try:
            await self._carry_out(command)
        except ChatError as error:
            self._refuse_command(error, command)
        except Exception:  # the outermost place of a socket: a bug is answered, and the socket lives on
            bug = uuid4().hex[:12]
            logger.exception("a command failed", extra={"bug": bug})
            self._refuse_command(Internal(f"Something went wrong here (id {bug})."), command)
        finally:
            if isinstance(command, Send):
                self._sends.end(begun, time.monotonic(), answered=True)

    async def _carry_out(self, command: Command) -> None:
        match command:
            case Send():
                await self._send_message(command)
            case Sync():
                self._reply(encode(Synced(command.ref, await reads.sync(self.identity.person, command.cursors))))
            case Watch():
                await self._watch(list(command.user_ids))

    async def _watch(self, user_ids: list[UUID]) -> None:
        await self._node.watch(self, frozenset(map(str, user_ids)))
        for start in range(0, len(user_ids), WATCHED_AT_ONCE):
            if self._out is None or not await self._out.room():
                return
            for out in await reads.presence_of(user_ids[start : start + WATCHED_AT_ONCE]):
                self._reply(encode(Presence(out.user_id, out.status, out.last_seen_at)))

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
        self._reply(
            encode(Ack(command.ref, message.client_msg_id, conversation_id, message.seq, rfc3339(message.sent_at)))
        )

    def _refuse_command(self, error: ChatError, command: Command) -> None:
        if not error.retry:  # what comes again is counted: there may be very many
            client_msg_id = str(command.client_msg_id) if isinstance(command, Send) else None
            logger.info("refused", extra={"code": error.code, "client_msg_id": client_msg_id})
        metrics.nacked.labels(error.code).inc()
        self._reply(encode(_nack(error, command)))


def _nack(error: ChatError, command: Command) -> Nack:
    client_msg_id = str(command.client_msg_id) if isinstance(command, Send) else UNSET
    return nack(error, ref=getattr(command, "ref", UNSET), client_msg_id=client_msg_id)

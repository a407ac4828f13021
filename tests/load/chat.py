"""
A client of our own wire (docs/protocol.md), as cheap as can be, that keeps what it did for the checker.

It applies messages in their order, holds what is ahead, and syncs when a gap lasts, as any client must; but it never
waits for an ack before it sends the next message.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from tests.load.rest import RestClient
from tests.load.tally import Tally
from tests.load.websocket import Refused, Socket, open_socket

GAP_S = 0.3
CATCH_UP_S = 300  # thousands may do it at once
HEARTBEAT_S = 30
PATH = "/ws/v1/"


# --- what is heard, and of it what matters here ----------------------------------------------------------------------
class Sender(msgspec.Struct, frozen=True):
    username: str


class Message(msgspec.Struct, frozen=True):
    conversation_id: str
    seq: int
    client_msg_id: str
    sender: Sender
    kind: Literal["text", "system"] = "text"


class Created(msgspec.Struct, frozen=True, tag="message.created"):
    message: Message


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    client_msg_id: str
    conversation_id: str
    seq: int


class Nack(msgspec.Struct, frozen=True, tag="nack"):
    code: str
    client_msg_id: str = ""
    ref: str = ""
    retry_after_ms: int = 1_000


class Missed(msgspec.Struct, frozen=True):
    conversation_id: str
    messages: list[Message] = []
    last_seq: int = 0
    more: bool = False


class Synced(msgspec.Struct, frozen=True, tag="synced"):
    conversations: list[Missed]
    ref: str = ""


class User(msgspec.Struct, frozen=True):
    id: str


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    user: User | None = None
    node_id: str = ""


class Resync(msgspec.Struct, frozen=True, tag="resync"):
    spread_ms: int


class Presence(msgspec.Struct, frozen=True, tag="presence"):
    user_id: str
    status: str


class Updated(msgspec.Struct, frozen=True, tag="conversation.updated"):
    pass


class HeartbeatAck(msgspec.Struct, frozen=True, tag="heartbeat.ack"):
    pass


class Reconnect(msgspec.Struct, frozen=True, tag="reconnect"):
    pass


Event = Created | Ack | Nack | Synced | Hello | Resync | Presence | Updated | HeartbeatAck | Reconnect


class Decoder:
    """Of the same frame for a hundred members, one after the other, it decodes the first."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(Event).decode
        self._last = b""
        self._event: Event = Hello()

    def __call__(self, payload: bytes) -> Event:
        if payload != self._last:
            self._last, self._event = payload, self._decode(payload)
        return self._event


decode = Decoder()
encode = msgspec.json.encode


# --- the client ------------------------------------------------------------------------------------------------------
class Said(NamedTuple):
    """What happened to a message of one's own: its seq with an ack, None when it went out or was refused."""

    time: float
    what: Literal["invoke", "ok", "info"]
    conversation: str
    client_msg_id: str
    seq: int | None


class ChatClient:
    acks = True

    def __init__(self, username: str, token: str, port: int, tally: Tally) -> None:
        self.username = username
        self.user_id = self.node = ""  # from `hello`
        self.cursors: dict[str, int] = {}
        self.heads: dict[str, int] = {}  # as the last sync named them
        self.applied: list[tuple[float, Message]] = []
        self.said: list[Said] = []
        self.nacks: dict[str, int] = {}
        self.statuses: dict[str, str] = {}  # as it heard last, by user
        self.gaps = 0
        self._token, self._port, self._tally = token, port, tally
        self._held: dict[tuple[str, int], Message] = {}
        self._waiting_for_gap: set[str] = set()  # by conversation
        self._conversation_of: dict[str, str] = {}  # of messages that are under way
        self._loop = asyncio.get_running_loop()
        self._hello = self._loop.create_future()
        self._synced: dict[str, asyncio.Future[None]] = {}
        self._asked: dict[str, Mapping[str, int]] = {}
        self._socket: Socket | None = None
        self._heartbeat: asyncio.TimerHandle | None = None

    # --- what it does ------------------------------------------------------------------------------------------------
    async def connect(self) -> None:
        """Until `hello`. Raises OSError, TimeoutError, Refused."""
        self._hello = self._loop.create_future()
        headers = {"Authorization": f"Bearer {self._token}"}
        self._socket = await open_socket("127.0.0.1", self._port, PATH, headers, self._heard)
        await asyncio.wait([self._hello, self._socket.closed], timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if not self._hello.done():
            was = f"closed with {self._socket.close_code}" if self._socket.closed.done() else "no answer"
            self._socket.hang_up()
            raise Refused(f"no hello: {was}")
        self._heartbeat = self._loop.call_later(random.uniform(1, HEARTBEAT_S), self._beat)

    def close(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._socket is not None:
            self._socket.hang_up()

    @property
    def is_open(self) -> bool:
        return self._socket is not None and not self._socket.closed.done()

    def send(self, conversation: str, client_msg_id: str, content: str) -> None:
        self._conversation_of[client_msg_id] = conversation
        self.said.append(Said(time.monotonic(), "invoke", conversation, client_msg_id, None))
        self._say(
            f'{{"type":"message.send","client_msg_id":"{client_msg_id}",'
            f'"conversation_id":"{conversation}","content":"{content}"}}'.encode()
        )

    def twin(self, tally: Tally) -> "ChatClient":
        """The same person on another device, which has nothing yet."""
        return ChatClient(self.username, self._token, self._port, tally)

    def rest(self) -> RestClient:
        return RestClient(self._port, self._token)

    def watch(self, user_ids: Iterable[str]) -> None:
        self._say(encode({"type": "presence.watch", "user_ids": list(user_ids)}))

    async def catch_up(self) -> None:
        """Until this client has all that there is in the conversations whose cursors it keeps. Raises TimeoutError."""
        await asyncio.wait_for(self.sync(self.cursors), CATCH_UP_S)

    def sync(self, cursors: Mapping[str, int]) -> "asyncio.Future[None]":
        """Done when it is answered, and nothing is left to ask for."""
        ref = f"{len(self._synced)}-{random.getrandbits(32):x}"
        self._synced[ref] = self._loop.create_future()
        self._asked[ref] = cursors
        self._ask(ref)
        return self._synced[ref]

    def _ask(self, ref: str) -> None:
        """Once, and again when the server has refused for now."""
        self._say(encode({"type": "sync", "cursors": self._asked[ref], "ref": ref}))

    async def newest(self, conversation: str, limit: int) -> None:
        """The last so many messages of a conversation whose cursor it does not keep."""
        if conversation not in self.heads:
            await self.sync({conversation: 2**53})  # which says where it ends
        await self.sync({conversation: max(0, self.heads[conversation] - limit)})

    def _say(self, text: bytes) -> None:
        assert self._socket is not None
        self._socket.say(text)

    def _beat(self) -> None:
        self._say(b'{"type":"heartbeat"}')
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)

    # --- what it hears -----------------------------------------------------------------------------------------------
    def _heard(self, payload: bytes) -> None:
        match decode(payload):
            case Created(message):
                self._take(message)
            case Ack(client_msg_id, conversation, seq):
                now = time.monotonic()
                self._conversation_of.pop(client_msg_id, None)
                self.said.append(Said(now, "ok", conversation, client_msg_id, seq))
                self._tally.acked(client_msg_id, now)
            case Nack(code, client_msg_id, ref, retry_after_ms):
                self.nacks[code] = self.nacks.get(code, 0) + 1
                self._refused(client_msg_id)
                if ref in self._synced:
                    self._loop.call_later(random.uniform(1, 2) * retry_after_ms / 1000, self._ask, ref)
            case Synced(conversations, ref):
                self._take_missed(conversations, ref)
            case Hello(user, node):
                self.user_id, self.node = user.id if user is not None else "", node
                if not self._hello.done():
                    self._hello.set_result(None)
            case Presence(user_id, status):
                self.statuses[user_id] = status
            case Resync(spread_ms):
                self._loop.call_later(random.uniform(0, spread_ms / 1000), self._catch_up_in_passing)

    def _refused(self, client_msg_id: str) -> None:
        conversation = self._conversation_of.pop(client_msg_id, None)
        if conversation is not None:
            self.said.append(Said(time.monotonic(), "info", conversation, client_msg_id, None))
            self._tally.refused(client_msg_id)

    def _take(self, message: Message) -> None:
        conversation = message.conversation_id
        cursor = self.cursors.get(conversation)
        if cursor is None or message.seq <= cursor:
            return
        if message.seq > cursor + 1:
            self._held[conversation, message.seq] = message
            if conversation not in self._waiting_for_gap:
                self._watch_gap(conversation)
            return
        self._apply(message)
        while self._held and (following := self._held.pop((conversation, self.cursors[conversation] + 1), None)):
            self._apply(following)

    def _apply(self, message: Message) -> None:
        now = time.monotonic()
        self.cursors[message.conversation_id] = message.seq
        self.applied.append((now, message))
        self._tally.delivered(message.client_msg_id, now)

    def _watch_gap(self, conversation: str) -> None:
        self._waiting_for_gap.add(conversation)
        self._loop.call_later(GAP_S, self._close_gap, conversation, self.cursors[conversation])

    def _close_gap(self, conversation: str, cursor: int) -> None:
        """Ask for what is missing if it is the same after 300 to 600 ms: what overtakes makes short gaps."""
        self._waiting_for_gap.discard(conversation)
        if not self.is_open or not any(name == conversation for name, _ in self._held):
            return
        if self.cursors[conversation] == cursor and not self._synced:  # an answer that is due may bring it
            self.gaps += 1
            self.sync({conversation: cursor})
        self._watch_gap(conversation)

    def _catch_up_in_passing(self) -> None:
        if self.is_open and self.cursors:
            self.sync(self.cursors)

    def _take_missed(self, conversations: list[Missed], ref: str) -> None:
        for missed in conversations:
            self.heads[missed.conversation_id] = missed.last_seq
            for message in missed.messages:
                self._take(message)
        more = {missed.conversation_id: self.cursors[missed.conversation_id] for missed in conversations if missed.more}
        if more:
            self._asked[ref] = more
            self._ask(ref)
            return
        self._asked.pop(ref, None)
        if (answer := self._synced.pop(ref, None)) is not None and not answer.done():
            answer.set_result(None)

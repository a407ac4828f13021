"""
The wire contract (docs/protocol.md) as types: what a client may say, what it hears, and the codec between.

`decode` turns a text frame into one of the commands or raises BadFrame or BadType; `encode` turns an event into the
bytes that go out. No dict leaves this module.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from apps.accounts.people import Person
from apps.conversations.errors import BadFrame, BadType, ChatError
from apps.conversations.messages import MAX_CONTENT_CHARS, Message
from apps.presence.frames import Presence, Resync, rfc3339

__all__ = ["Presence", "Resync", "rfc3339"]  # of the same contract, said by the node itself

MAX_FRAME_BYTES = 65_536
MAX_SYNC_CONVERSATIONS = 1_000
MAX_WATCHED_USERS = 500
MAX_REPORTED = 1_000

Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Reported = Annotated[int, Meta(ge=0, le=MAX_REPORTED)]


# --- what a client may say -------------------------------------------------------------------------------------------
class Send(Struct, frozen=True, tag="message.send", tag_field="type", kw_only=True):
    client_msg_id: UUID
    content: str
    conversation_id: UUID | UnsetType = UNSET
    to: str | UnsetType = UNSET
    ref: str | UnsetType = UNSET
    after_seq: Seq | UnsetType = UNSET


class Heartbeat(Struct, frozen=True, tag="heartbeat", tag_field="type"):
    active: bool | UnsetType = UNSET  # whether the person has used this client since the last one; unset: not known


class Sync(Struct, frozen=True, tag="sync", tag_field="type", kw_only=True):
    cursors: Annotated[dict[UUID, Seq], Meta(max_length=MAX_SYNC_CONVERSATIONS)]
    ref: str | UnsetType = UNSET


class Watch(Struct, frozen=True, tag="presence.watch", tag_field="type", kw_only=True):
    user_ids: Annotated[list[UUID], Meta(max_length=MAX_WATCHED_USERS)]


class Report(Struct, frozen=True, tag="report", tag_field="type", kw_only=True):
    gap_repairs: Reported  # times it had to ask for what a gap in the order lacked
    lost: Reported  # own acked messages that are not where the ack said


Command = Send | Heartbeat | Sync | Watch | Report
COMMAND_TYPES = frozenset({"message.send", "heartbeat", "sync", "presence.watch", "report"})


# --- what it hears ---------------------------------------------------------------------------------------------------
class MessageOut(Struct, frozen=True):
    conversation_id: UUID
    seq: int
    client_msg_id: UUID
    sender: Person
    kind: str
    content: str
    sent_at: str


class MemberOut(Struct, frozen=True):
    id: UUID
    username: str
    display_name: str
    role: str


class ConversationOut(Struct, frozen=True):
    id: UUID
    kind: str
    title: str
    members: list[MemberOut]
    last_seq: int
    last_read_seq: int
    unread_count: int
    last_message: MessageOut | None


class Limits(Struct, frozen=True):
    content_chars: int
    frame_bytes: int
    sends_per_10s: int


class Hello(Struct, frozen=True, tag="hello", tag_field="type"):
    user: Person
    session_id: str
    node_id: str
    heartbeat_interval_ms: int
    offline_after_ms: int
    limits: Limits


class Ack(Struct, frozen=True, tag="ack", tag_field="type"):
    ref: str | UnsetType
    client_msg_id: UUID
    conversation_id: UUID
    seq: int
    sent_at: str


class Nack(Struct, frozen=True, tag="nack", tag_field="type", kw_only=True):
    code: str
    detail: str
    retry: bool
    ref: str | UnsetType = UNSET
    client_msg_id: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET


class MessageCreated(Struct, frozen=True, tag="message.created", tag_field="type"):
    message: MessageOut


class ConversationUpdated(Struct, frozen=True, tag="conversation.updated", tag_field="type"):
    conversation: ConversationOut
    removed: Literal[True] | UnsetType = UNSET


class HeartbeatAck(Struct, frozen=True, tag="heartbeat.ack", tag_field="type"):
    server_time: str


class SyncedConversation(Struct, frozen=True):
    conversation_id: UUID
    messages: list[MessageOut] | UnsetType = UNSET
    last_seq: int | UnsetType = UNSET
    more: bool | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Synced(Struct, frozen=True, tag="synced", tag_field="type"):
    ref: str | UnsetType
    conversations: list[SyncedConversation]


class PresenceOut(Struct, frozen=True):
    user_id: UUID
    status: Literal["online", "offline"]
    last_seen_at: str | None
    nodes: list[str] | UnsetType = UNSET


class Reconnect(Struct, frozen=True, tag="reconnect", tag_field="type"):
    after_ms: int


# --- the codec -------------------------------------------------------------------------------------------------------
encode = msgspec.json.Encoder().encode
_decode_command: Callable[[str], Command] = msgspec.json.Decoder(Command).decode
_decode_any = msgspec.json.Decoder().decode


def decode(frame: str) -> Command:
    """One text frame as a command; its content trimmed. Raises BadFrame, which names the field, or BadType."""
    try:
        command: Command = _decode_command(frame)
    except msgspec.ValidationError as error:
        raise _refusal(frame, str(error)) from error
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise BadFrame("The frame is not valid JSON.") from error
    if isinstance(command, Send):
        if (command.conversation_id is UNSET) == (command.to is UNSET):
            raise BadFrame("Name either `conversation_id` or `to`.", pointer="/conversation_id")
        return msgspec.structs.replace(command, content=clean_content(command.content))
    return command


def clean_content(content: str) -> str:
    """The text that will be stored: trimmed, 1 to 8,000 characters, no NUL, valid Unicode. Raises BadFrame."""
    content = content.strip()
    if not content:
        raise BadFrame("`content` is empty.", pointer="/content")
    if len(content) > MAX_CONTENT_CHARS:
        raise BadFrame(f"`content` has more than {MAX_CONTENT_CHARS:,} characters.", pointer="/content")
    if "\x00" in content or not _is_text(content):
        raise BadFrame("`content` has characters that are not text (NUL or half a surrogate pair).", pointer="/content")
    return content


def _is_text(content: str) -> bool:
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


def nack(error: ChatError, *, ref: str | UnsetType = UNSET, client_msg_id: str | UnsetType = UNSET) -> Nack:
    return Nack(
        code=error.code,
        detail=error.detail,
        retry=error.retry,
        ref=ref,
        client_msg_id=client_msg_id,
        retry_after_ms=UNSET if error.retry_after_ms is None else error.retry_after_ms,
    )


def nack_frame(error: ChatError, frame: str | None) -> Nack:
    """The refusal of a frame that could not be decoded, with its `ref` and `client_msg_id` where they can be read."""
    fields = _fields(frame) if frame is not None else {}
    ref, client_msg_id = fields.get("ref"), fields.get("client_msg_id")
    return nack(
        error,
        ref=ref if isinstance(ref, str) else UNSET,
        client_msg_id=client_msg_id if isinstance(client_msg_id, str) else UNSET,
    )


def message_out(message: Message, sender: Person) -> MessageOut:
    return MessageOut(
        message.conversation_id,
        message.seq,
        message.client_msg_id,
        sender,
        message.kind.value,
        message.content,
        rfc3339(message.sent_at),
    )


def _refusal(frame: str, problem: str) -> ChatError:
    kind = _fields(frame).get("type")
    if isinstance(kind, str) and kind not in COMMAND_TYPES:
        return BadType(f"There is no frame of type {kind[:40]!r}.")
    _, _, path = problem.partition(" - at `$")
    pointer = path.rstrip("`").replace(".", "/").replace("[...]", "/*") or None
    return BadFrame(problem.replace("`$.", "`"), pointer=pointer)


def _fields(frame: str) -> dict[str, Any]:
    try:
        value = _decode_any(frame)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

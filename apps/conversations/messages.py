"""What is said: a draft before it has a number, and the stored message after."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

import msgspec

MAX_CONTENT_CHARS = 8_000


class Kind(StrEnum):
    TEXT = "text"
    SYSTEM = "system"


KINDS = {kind.value: kind for kind in Kind}  # looked up for each message that is read; Kind(…) takes far longer


class Draft(msgspec.Struct, frozen=True):
    """
    A message on its way into the log.

    `client_msg_id` is the sender's own and the same on every try. `after_seq` is None on a first try; on a retry it is
    the last seq the client held when it first sent (0: unknown, look everywhere), the lower bound for the search.
    """

    conversation_id: UUID
    sender_id: UUID
    client_msg_id: UUID
    content: str
    kind: Kind = Kind.TEXT
    after_seq: int | None = None

    @property
    def message_id(self) -> UUID:
        """The same for every try of the same message, and for no other message."""
        return uuid5(self.conversation_id, f"{self.sender_id}:{self.client_msg_id}")


class Message(msgspec.Struct, frozen=True):
    """A message under its final number. It is never renumbered, overwritten or doubled."""

    conversation_id: UUID
    seq: int
    sender_id: UUID
    client_msg_id: UUID
    kind: Kind
    content: str
    sent_at: datetime  # aware, UTC, whole milliseconds
    repeated: bool = False  # this answer is to a draft that had been stored before

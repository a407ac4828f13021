"""
The numbered log of each conversation: what every implementation promises.

Members see one order: seq 1, 2, 3 … per conversation, without a gap. The number and the message are one atomic write,
so a number never exists without its message, nor a message without its number.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from apps.conversations.messages import Draft, Message


class MembersChanged(Exception):
    """Not stored: the log holds a message sent under a newer version of the members. Look again who may send."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the log is at version {version} of the members")
        self.version = version


class Contended(Exception):
    """Given up, as other processes write the same conversation and were faster. What is stored of it is unknown."""


class HistoryStore(Protocol):
    async def start(self) -> None:
        """Connect and prepare. Raises Unavailable when the store cannot be reached."""

    async def close(self) -> None: ...

    async def append(self, drafts: Sequence[Draft], members_version: int, *, give_way: bool = False) -> list[Message]:
        """
        Number and store drafts of ONE conversation, in the order given; returns their messages in that order.

        `members_version` is that of the members by whose word the senders may send (memberships.Members). The log only
        moves on to the same or a newer version: once it holds the message that tells of a removal, nothing is stored by
        the word of those who have not heard of it. Raises MembersChanged then.

        Returned means synced to disk on a quorum, under a final seq. A draft whose message is already stored (same
        conversation, sender and client_msg_id, at any earlier time within what `after_seq` says) comes back as that
        first message, content included, and takes no new number.
        Raises Unavailable: not decided in time. That is "unknown", never "failed": the same drafts may be given again.
        With `give_way` it may raise Contended; without, it tries until its time is up.
        """
        ...

    async def before(self, conversation_id: UUID, seq: int | None, limit: int) -> list[Message]:
        """Up to `limit` messages with a number below `seq` (None: the newest), oldest first. Raises Unavailable."""
        ...

    async def after(self, conversation_id: UUID, seq: int, limit: int) -> list[Message]:
        """Up to `limit` messages with a number above `seq`, oldest first, contiguous. Raises Unavailable."""
        ...

    async def latest(self, conversation_ids: Collection[UUID]) -> Mapping[UUID, Message]:
        """The newest message of each conversation that has one; its seq is the head. Raises Unavailable."""
        ...

    async def ping(self) -> None:
        """Answer cheaply, or raise Unavailable. For readiness."""

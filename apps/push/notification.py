"""
One notification for one device, already what its owner's settings allow to be said.

On a device there is at most one per conversation (the conversation's id is its collapse id), so a push that goes out
twice, or after a newer one, is no harm. A "clear" takes it away again: the conversation was read elsewhere.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec


class Push(msgspec.Struct, frozen=True):
    push_id: UUID  # the same on every try
    kind: Literal["message", "clear"]
    conversation_id: UUID
    seq: int  # the newest message that it tells of; of a clear: up to where it was read
    title: str  # empty for a clear, as is the body
    body: str
    path: str  # the page to open, on the chat's own origin: "/c/<id>/"
    badge: int  # unread messages in all conversations
    count: int  # new messages that this one tells of
    expires_at: datetime  # aware, UTC

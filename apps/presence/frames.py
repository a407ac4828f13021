"""What a node itself says to clients; the rest of the contract is in conversations/protocol.py."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct, to_builtins


class Presence(Struct, frozen=True, tag="presence", tag_field="type"):
    user_id: UUID
    status: Literal["online", "offline"]
    last_seen_at: str | None


class Resync(Struct, frozen=True, tag="resync", tag_field="type"):
    spread_ms: int


def rfc3339(moment: datetime) -> str:
    """Of a moment, which has to be in UTC, with milliseconds: 2026-01-31T12:00:00.000Z"""
    text: str = to_builtins(moment)  # a fifth of what isoformat() takes, for each message of a page
    return f"{text[:23]}Z" if moment.microsecond else f"{text[:19]}.000Z"

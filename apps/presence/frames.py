"""What a node itself says to clients; the rest of the contract is in conversations/protocol.py."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct


class Presence(Struct, frozen=True, tag="presence", tag_field="type"):
    user_id: UUID
    status: Literal["online", "offline"]
    last_seen_at: str | None


class Resync(Struct, frozen=True, tag="resync", tag_field="type"):
    spread_ms: int


def rfc3339(moment: datetime) -> str:
    """Of a moment in UTC, with milliseconds: 2026-01-31T12:00:00.000Z"""
    return f"{moment.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"

"""A person as everyone else sees them."""

from typing import Protocol
from uuid import UUID

import msgspec


class _Named(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def username(self) -> str: ...
    @property
    def display_name(self) -> str: ...


class Person(msgspec.Struct, frozen=True):
    id: UUID
    username: str
    display_name: str

    @classmethod
    def of(cls, user: _Named) -> "Person":
        return cls(user.id, user.username, user.display_name)

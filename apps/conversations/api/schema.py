"""What REST answers, as types, and how they enter the OpenAPI document: msgspec writes their JSON Schema."""

from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
from drf_spectacular.authentication import SessionScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.plumbing import build_bearer_security_scheme_object
from msgspec import Struct

from apps.accounts.people import Person
from apps.conversations.protocol import ConversationOut, MessageOut, PresenceOut, rfc3339
from apps.conversations.reads import ConversationWishes
from apps.push.models import Device
from apps.push.wishes import Content, Wishes

T = TypeVar("T")


class List(Struct, Generic[T], frozen=True):
    results: list[T]
    next_cursor: str | None


class MessagePage(Struct, frozen=True):
    results: list[MessageOut]
    has_more: bool


class Token(Struct, frozen=True):
    token: str


class VapidKey(Struct, frozen=True):
    public_key: str


class DeviceOut(Struct, frozen=True):
    id: UUID
    platform: str
    name: str
    created_at: str

    @classmethod
    def of(cls, device: Device) -> "DeviceOut":
        return cls(device.id, device.platform, device.name, rfc3339(device.created_at))


class WishesOut(Struct, frozen=True):
    """`content_allowed` is the most that this installation lets a push say."""

    content: Content
    content_allowed: Content
    time_zone: str
    quiet_from: str | None
    quiet_until: str | None

    @classmethod
    def of(cls, wishes: Wishes, content_allowed: Content) -> "WishesOut":
        return cls(
            wishes.content,
            content_allowed,
            wishes.time_zone,
            wishes.quiet_from and f"{wishes.quiet_from:%H:%M}",
            wishes.quiet_until and f"{wishes.quiet_until:%H:%M}",
        )


class ConversationWishesOut(Struct, frozen=True):
    muted_until: str | None
    mentions_only: bool

    @classmethod
    def of(cls, wishes: ConversationWishes) -> "ConversationWishesOut":
        return cls(wishes.muted_until and rfc3339(wishes.muted_until), wishes.mentions_only)


class FieldError(Struct, frozen=True):
    pointer: str
    detail: str


class Problem(Struct, frozen=True):
    """RFC 9457"""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError]


_ANSWERS: list[Any] = [
    Person,
    ConversationOut,
    MessageOut,
    MessagePage,
    PresenceOut,
    Token,
    DeviceOut,
    WishesOut,
    ConversationWishesOut,
    VapidKey,
    Problem,
    List[Person],
    List[ConversationOut],
    List[PresenceOut],
    List[DeviceOut],
]
_SCHEMAS, _COMPONENTS = msgspec.json.schema_components(_ANSWERS, ref_template="#/components/schemas/{name}")
_REFERENCES = list(zip(_ANSWERS, _SCHEMAS, strict=True))


def replies(answer: Any, *statuses: int) -> dict[Any, Any]:
    """The documented responses of an operation that answers with this type, with 200 or these statuses."""
    reference = next(schema for kind, schema in _REFERENCES if kind == answer)
    return dict.fromkeys(statuses or (200,), reference)


def add_components(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's postprocessing: the types above, and that any operation may answer with a problem."""
    result["components"].setdefault("schemas", {}).update(_COMPONENTS)
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    problem = {"description": "What is wrong.", "content": {"application/problem+json": reference}}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = problem
    return result


# drf-spectacular finds these by themselves, as subclasses.
class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "apps.accounts.authentication.BearerAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> Any:
        return build_bearer_security_scheme_object("Authorization", "Bearer")


class CookieScheme(SessionScheme):
    target_class = "apps.accounts.authentication.SessionAuthentication"

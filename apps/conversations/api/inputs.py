"""
What REST takes in: the body as strict JSON, and the shape of each request as a serializer.

Unknown fields of a body are ignored, so that clients may be newer than we are. An unknown query parameter is refused:
a filter that is silently ignored matches everything.
"""

from datetime import datetime, time
from typing import Any
from uuid import UUID

import msgspec
from django.core.validators import RegexValidator
from rest_framework import serializers
from rest_framework.exceptions import APIException, ParseError, ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.serializers import Serializer

from apps.accounts.models import display_name_validator

MAX_BODY_BYTES = 256 * 1024  # 8,000 characters may be 96,000 bytes of escapes
MAX_SEQ = 2**63 - 1
MAX_PRESENCE_IDS = 500
PAGE = 50


no_control_characters = RegexValidator(
    r"[\x00-\x1f\x7f-\x9f]", "A token has no control characters.", inverse_match=True
)


class BodyTooLarge(APIException):
    status_code = 413
    default_code = "too_large"
    default_detail = f"The body has more than {MAX_BODY_BYTES:,} bytes."


class JsonBody(BaseParser):
    """UTF-8 JSON without NaN, half surrogate pairs or bottomless nesting."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        body = stream.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError("The body is not valid JSON.") from error


# --- fields ----------------------------------------------------------------------------------------------------------
class Text(serializers.CharField):
    """A string and nothing that could be made into one. DRF itself refuses NUL and halves of surrogate pairs."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValidationError("Not a string.", code="invalid")
        return str(super().to_internal_value(data))


class Uuid(serializers.UUIDField):
    def to_internal_value(self, data: Any) -> UUID:
        if not isinstance(data, str):
            raise ValidationError("Not a UUID.", code="invalid")
        return UUID(str(super().to_internal_value(data)))


class Seq(serializers.IntegerField):
    """In a body: a number, not a string of digits."""

    def __init__(self) -> None:
        super().__init__(min_value=0, max_value=MAX_SEQ)

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            raise ValidationError("Not a whole number.", code="invalid")
        return int(super().to_internal_value(data))


class ClockTime(serializers.TimeField):
    """`22:00`, or with seconds, which do not count."""

    def to_internal_value(self, value: Any) -> time:
        if not isinstance(value, str):
            raise ValidationError("Not a time of day.", code="invalid")
        given: time = super().to_internal_value(value)
        return given.replace(second=0, microsecond=0, tzinfo=None)


class Moment(serializers.DateTimeField):
    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str):
            raise ValidationError("Not a time.", code="invalid")
        return super().to_internal_value(value)


class Flag(serializers.BooleanField):
    """true or false, and nothing that could pass for it."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise ValidationError("Neither true nor false.", code="invalid")
        return data


# --- queries ---------------------------------------------------------------------------------------------------------
class Query(Serializer[Any]):
    """Takes a QueryDict, each parameter known and given once."""

    def to_internal_value(self, data: Any) -> Any:
        wrong = {name: ["There is no such parameter."] for name in data if name not in self.fields}
        wrong |= {name: ["Given more than once."] for name, values in data.lists() if len(values) > 1}
        if wrong:
            raise ValidationError(wrong)
        return super().to_internal_value(data.dict())


class NoQuery(Query):
    """For what takes no parameters."""


class PageQuery(Query):
    limit = serializers.IntegerField(min_value=1, max_value=100, default=PAGE)
    cursor = Text(required=False, max_length=300)


class PeopleQuery(PageQuery):
    q = Text(min_length=1, max_length=64)


class MessagesQuery(Query):
    limit = serializers.IntegerField(min_value=1, max_value=100, default=PAGE)
    before_seq = serializers.IntegerField(min_value=1, max_value=MAX_SEQ, required=False)
    after_seq = serializers.IntegerField(min_value=0, max_value=MAX_SEQ, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "before_seq" in attrs and "after_seq" in attrs:
            raise ValidationError({"after_seq": ["Give either before_seq or after_seq."]})
        return attrs


class PresenceQuery(Query):
    user_ids = Text(max_length=MAX_PRESENCE_IDS * 37, help_text="Ids of users, separated by commas; at most 500.")

    def validate_user_ids(self, value: str) -> list[UUID]:
        ids = serializers.ListField(child=Uuid(), min_length=1, max_length=MAX_PRESENCE_IDS)
        return list(ids.run_validation(value.split(",")))


class DeviceQuery(Query):
    token = Text(max_length=4_096, required=False, help_text="Which device to forget, when the body does not say.")


# --- bodies ----------------------------------------------------------------------------------------------------------
class Credentials(Serializer[Any]):
    username = Text(max_length=150)
    password = Text(max_length=1_000, trim_whitespace=False)


class SignUp(Credentials):
    display_name = Text(max_length=64, required=False, default="", allow_blank=True)


class Profile(Serializer[Any]):
    display_name = Text(max_length=64, validators=[display_name_validator])


class Username(Serializer[Any]):
    username = Text(max_length=150)


class NewConversation(Serializer[Any]):
    kind = serializers.ChoiceField(["direct", "group"])
    title = Text(max_length=80, required=False, default="", allow_blank=True)
    members = serializers.ListField(child=Text(max_length=150), min_length=1, max_length=100)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["kind"] == "direct" and len(attrs["members"]) != 1:
            raise ValidationError({"members": ["A direct conversation is with one person."]})
        if attrs["kind"] == "group" and not attrs["title"]:
            raise ValidationError({"title": ["A group needs a title."]})
        return attrs


class Title(Serializer[Any]):
    title = Text(max_length=80)


class NewMember(Username):
    role = serializers.ChoiceField(["admin", "member"], default="member")


class Role(Serializer[Any]):
    role = serializers.ChoiceField(["owner", "admin", "member"])


class NewMessage(Serializer[Any]):
    content = Text(trim_whitespace=False, allow_blank=True)
    client_msg_id = Uuid()


class ReadUpTo(Serializer[Any]):
    seq = Seq()


class NewDevice(Serializer[Any]):
    platform = serializers.ChoiceField(["fcm", "apns", "web"])
    token = Text(max_length=4_096, validators=[no_control_characters])
    name = Text(max_length=64, required=False, default="", allow_blank=True)


class Wishes(Serializer[Any]):
    content = serializers.ChoiceField(["full", "sender", "none"], required=False)
    time_zone = Text(max_length=64, required=False, help_text="As in the IANA database: Europe/Berlin.")
    quiet_from = ClockTime(allow_null=True, required=False, help_text="HH:MM, in the person's time zone.")
    quiet_until = ClockTime(allow_null=True, required=False)


class ConversationWishes(Serializer[Any]):
    muted_until = Moment(allow_null=True, required=False, help_text="RFC 3339; null: not muted.")
    mentions_only = Flag(required=False)


class DeviceToken(Serializer[Any]):
    token = Text(max_length=4_096)

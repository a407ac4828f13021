"""How a person wants to be told: what a push says, and when there is none. One check for REST and the page."""

import zoneinfo
from datetime import time
from functools import cache
from typing import Literal, get_args
from uuid import UUID

import msgspec

from apps.push.models import NotificationSettings

Content = Literal["full", "sender", "none"]


class BadWish(Exception):
    """It makes no sense; `field` says where."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Wishes(msgspec.Struct, frozen=True):
    content: Content = "full"
    time_zone: str = "UTC"
    quiet_from: time | None = None
    quiet_until: time | None = None


def wishes_of(user_id: UUID) -> Wishes:
    row = NotificationSettings.objects.filter(user_id=user_id).first()
    return Wishes() if row is None else of_row(row)


def of_row(row: NotificationSettings) -> Wishes:
    return Wishes(_content(row.content), row.time_zone, row.quiet_from, row.quiet_until)


def keep_wishes(user_id: UUID, wishes: Wishes) -> None:
    """Raises BadWish."""
    check(wishes)
    NotificationSettings.objects.update_or_create(user_id=user_id, defaults=msgspec.structs.asdict(wishes))


def check(wishes: Wishes) -> None:
    """Raises BadWish."""
    if wishes.content not in get_args(Content):
        raise BadWish("content", "One of full, sender and none.")
    if wishes.time_zone not in time_zones():
        raise BadWish("time_zone", "There is no such time zone; they are called Europe/Berlin and the like.")
    if (wishes.quiet_from is None) != (wishes.quiet_until is None):
        missing = "quiet_from" if wishes.quiet_from is None else "quiet_until"
        raise BadWish(missing, "Quiet hours have a beginning and an end.")
    if wishes.quiet_from is not None and wishes.quiet_from == wishes.quiet_until:
        raise BadWish("quiet_until", "Quiet hours end at another time than they begin.")


@cache
def time_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _content(stored: str) -> Content:
    return next((level for level in get_args(Content) if level == stored), "none")

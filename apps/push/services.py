"""Which devices a person's notifications go to."""

from collections.abc import Collection
from uuid import UUID

import msgspec
from django.db import transaction
from django.utils import timezone

from apps.accounts.identity import Identity, ended
from apps.accounts.models import User
from apps.accounts.people import Person
from apps.push.ledger import delete_devices
from apps.push.models import Device
from apps.push.subscription import kept_as, registrable

MAX_DEVICES = 20
SESSIONS_AT_ONCE = 500


class TooManyDevices(Exception):
    pass


class NewDevice(msgspec.Struct, frozen=True):
    platform: str
    token: str
    name: str = ""


def register_device(user: User, new: NewDevice, session_id: str = "") -> Device:
    """
    The user's device with this token, until this session ends. It was another account's: then no more, with what waits
    to be pushed to it.

    Raises TooManyDevices, and BadSubscription for a browser's token.
    """
    token = registrable(new.token) if new.platform == Device.Platform.WEB else new.token
    with transaction.atomic():
        User.objects.select_for_update().get(id=user.id)
        others = Device.objects.filter(user=user).exclude(platform=new.platform, token=token)
        if others.count() >= MAX_DEVICES:
            raise TooManyDevices(f"You have {MAX_DEVICES} devices already; remove one first.")
        delete_devices(Device.objects.filter(platform=new.platform, token=token).exclude(user=user))
        device, _ = Device.objects.update_or_create(
            platform=new.platform,
            token=token,
            defaults={"user": user, "name": new.name, "session_id": session_id, "registered_at": timezone.now()},
        )
    return device


def remove_device(user: User, device_id: UUID) -> bool:
    """Whether the user had this device."""
    return bool(delete_devices(Device.objects.filter(user=user, id=device_id)))


def remove_token(user: User, token: str) -> None:
    """For a client that knows what it was registered with, but not under which id."""
    delete_devices(Device.objects.filter(user=user, token=kept_as(token)))


def remove_devices_of_sessions(session_ids: Collection[str]) -> None:
    """These sessions have ended: what they registered hears nothing more."""
    if session_ids:
        delete_devices(Device.objects.filter(session_id__in=session_ids))


def remove_devices_of_ended_sessions() -> None:
    """For those that ended by themselves, such as by their age."""
    devices = Device.objects.exclude(session_id="").select_related("user")
    holders: list[Identity] = []
    for device in devices.iterator(chunk_size=SESSIONS_AT_ONCE):
        holders.append(Identity(Person.of(device.user), device.session_id, is_staff=False))
        if len(holders) == SESSIONS_AT_ONCE:
            remove_devices_of_sessions(ended(holders))
            holders = []
    remove_devices_of_sessions(ended(holders))

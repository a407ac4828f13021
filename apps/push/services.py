"""Which devices a person's notifications go to."""

from uuid import UUID

from django.db import transaction

from apps.accounts.models import User
from apps.push.models import Device

MAX_DEVICES = 20


class TooManyDevices(Exception):
    pass


def register_device(user: User, platform: str, token: str, name: str) -> Device:
    """The user's device with this token. One that another account had moves here. Raises TooManyDevices."""
    with transaction.atomic():
        User.objects.select_for_update().get(id=user.id)
        others = Device.objects.filter(user=user).exclude(platform=platform, token=token)
        if others.count() >= MAX_DEVICES:
            raise TooManyDevices(f"You have {MAX_DEVICES} devices already; remove one first.")
        device, _ = Device.objects.update_or_create(
            platform=platform, token=token, defaults={"user": user, "name": name}
        )
    return device


def remove_device(user: User, device_id: UUID) -> bool:
    """Whether the user had this device."""
    return bool(Device.objects.filter(user=user, id=device_id).delete()[0])


def remove_token(user: User, token: str) -> None:
    """For a client that knows what it was registered with, but not under which id."""
    Device.objects.filter(user=user, token=token).delete()

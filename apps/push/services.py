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

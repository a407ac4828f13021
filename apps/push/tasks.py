"""What workers do for push: one task per device, and the outbox that waits for a broker."""

from typing import Any

from celery import shared_task

from apps.push import outbox
from apps.push.models import Device
from apps.push.providers import console

# Whatever goes wrong may be right a moment later; what is not after an hour or so is a dead letter.
RETRY: dict[str, Any] = {
    "autoretry_for": (Exception,),
    "retry_backoff": True,
    "retry_backoff_max": 60,
    "retry_jitter": True,
    "max_retries": 60,
}


@shared_task(**RETRY)
def send_push(device_id: str, notification: dict[str, Any]) -> None:
    """Send one notification to one device. A device that is gone by now is nobody's loss."""
    device = Device.objects.select_related("user").filter(id=device_id, user__is_active=True).first()
    if device is not None:
        console.send(device, notification)


@shared_task
def redrive_outbox() -> int:
    return outbox.redrive()

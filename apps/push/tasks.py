"""What workers do for push: one task per device, and the outbox that waits for a broker."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from celery import shared_task
from django.utils import timezone

from apps.push import outbox
from apps.push.models import Device
from apps.push.notification import Push
from apps.push.providers import provider_for

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
        provider_for(device.platform).send(device.token, _push(device, notification))


def _push(device: Device, notification: dict[str, Any]) -> Push:
    conversation_id, seq = UUID(notification["conversation_id"]), int(notification["seq"])
    return Push(
        push_id=uuid5(conversation_id, f"{device.id}:{seq}"),
        kind="message",
        conversation_id=conversation_id,
        seq=seq,
        title=notification["sender_name"],
        body=notification["preview"],
        path=f"/c/{conversation_id}/",
        badge=1,
        count=1,
        expires_at=timezone.now() + timedelta(hours=1),
    )


@shared_task
def redrive_outbox() -> int:
    return outbox.redrive()

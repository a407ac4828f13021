"""Who of a conversation gets a push, decided when the worker gets to it: they may have come back and read by then."""

from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from celery import shared_task
from django.conf import settings
from redis.exceptions import RedisError

from apps.conversations.models import Membership
from apps.presence.pipe import Pipe
from apps.presence.registry import Registry
from apps.push import tasks as push
from apps.push.models import Device
from apps.push.tasks import send_push


@shared_task(**push.RETRY)
def notify_absent(notices: list[dict[str, Any]]) -> None:
    """For each notice, as delivery.py makes them: a push to every device of each absent member who has not read it."""
    for notice in notices:
        notification = {name: value for name, value in notice.items() if name != "user_ids"}
        for device in _devices(notice):
            send_push.delay(str(device.id), notification)


def _devices(notice: dict[str, Any]) -> list[Device]:
    waiting = Membership.objects.filter(
        conversation_id=notice["conversation_id"], left_at__isnull=True, last_read_seq__lt=notice["seq"]
    ).exclude(user__username=notice["sender"])
    if notice["user_ids"] is not None:
        waiting = waiting.filter(user_id__in=notice["user_ids"])
    devices = list(Device.objects.filter(user__memberships__in=waiting).distinct())
    connected = _connected({device.user_id for device in devices})
    return [device for device in devices if device.user_id not in connected]


@async_to_sync
async def _connected(user_ids: set[UUID]) -> set[UUID]:
    pipe = Pipe(settings.REDIS_URL)
    try:
        nodes = await Registry(pipe).nodes_of(user_ids)
    except RedisError:
        return set()  # one push too many is better than one too few
    finally:
        await pipe.close()
    return {user_id for user_id, channels in nodes.items() if channels}

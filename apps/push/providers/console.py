"""The provider of the one-command run: a push is a line in the worker's log. Content never goes to a log."""

import logging

from apps.push.models import Device

logger = logging.getLogger(__name__)


def send(device: Device, notification: dict[str, str]) -> None:
    logger.info(
        "push",
        extra={
            "username": device.user.username,
            "platform": device.platform,
            "device": str(device.id),
            "conversation_id": notification["conversation_id"],
            "seq": notification["seq"],
            "sender": notification["sender"],
        },
    )

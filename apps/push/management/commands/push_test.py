"""
Sends a push that says nothing but that it is a test to every device of a person, and tells what the providers answer.

The ledger and the devices stay as they are, whatever the answer. Exit code 1: not every device took it.
"""

import sys
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.push.models import Device
from apps.push.notification import Push
from apps.push.policy import APP_NAME
from apps.push.providers import provider_for
from apps.push.providers.base import Outcome


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, **options: Any) -> None:
        devices = list(Device.objects.filter(user__username=options["username"].lower()).order_by("created_at"))
        if not devices:
            raise CommandError(f"{options['username']} has no devices: docs/push.md says how a client registers one.")
        sent = [self._sent(device) for device in devices]
        if not all(sent):
            sys.exit(1)

    def _sent(self, device: Device) -> bool:
        try:
            provider = provider_for(device.platform)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        result = provider.send(device.token, _push(device))
        said = f"{device.platform} {device.name or device.id}: {result.outcome} by {provider.name}"
        self.stdout.write(" ".join(part for part in (said, result.provider_id, result.error) if part))
        return result.outcome is Outcome.ACCEPTED


def _push(device: Device) -> Push:
    return Push(
        push_id=uuid4(),
        kind="message",
        conversation_id=device.id,  # of none: whatever a conversation shows on this device stays
        seq=0,
        title=APP_NAME,
        body="This is a test.",
        path="/settings/",
        badge=0,
        count=0,
        expires_at=timezone.now() + timedelta(minutes=5),
    )

"""Prints a new private key for Web Push, as a line for the environment. Nothing is stored or changed."""

from typing import Any

from django.core.management.base import BaseCommand

from apps.push.vapid_key import new_private_key


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"WEBPUSH_PRIVATE_KEY={new_private_key()}")

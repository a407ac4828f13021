"""What a start needs, in one process: schema, static files, and demo users where nobody is yet; these as JSON."""

import json
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from apps.accounts.demo import create_demo_users


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        if settings.CASSANDRA_URL:
            call_command("sync_cassandra", verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        self.stdout.write(json.dumps(create_demo_users()))

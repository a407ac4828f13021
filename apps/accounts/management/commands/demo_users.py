"""
Make ada, bob and the staff user admin where nobody is yet, and print `username password` for each.

Their passwords are generated, and kept in $DATA/demo-users.txt for its owner alone. Where people are already, this
prints nothing and changes nothing.
"""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.accounts.demo import create_demo_users


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise CommandError("These are production settings: nobody is made here whose password is on a screen.")
        try:
            users = create_demo_users()
        except OSError as error:
            raise CommandError(f"The passwords can't be kept, so nobody was made: {error}") from error
        for user in users:
            self.stdout.write(f"{user['username']} {user['password']}")

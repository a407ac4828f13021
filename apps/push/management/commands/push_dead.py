"""Lists what could not be pushed, or tries it again (for an hour, as at first)."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet
from django.utils import timezone
from kombu.exceptions import OperationalError

from apps.push import dead_letters, ledger
from apps.push.models import PushRecord


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("do", choices=["list", "replay"])
        parser.add_argument("ids", nargs="*", type=UUID, metavar="ID", help="these alone; otherwise all")
        parser.add_argument("--provider", help="those of this provider alone")

    def handle(self, *args: Any, **options: Any) -> None:
        dead = PushRecord.objects.filter(state=PushRecord.State.DEAD).order_by("created_at")
        if options["ids"]:
            dead = dead.filter(id__in=options["ids"])
        if options["provider"]:
            dead = dead.filter(provider=options["provider"])
        try:
            if options["do"] == "list":
                self._list(dead)
            else:
                self._replay(dead, tasks_too=not options["ids"] and not options["provider"])
        except OperationalError as error:
            raise CommandError(f"The broker does not answer: {error}") from error

    def _list(self, dead: QuerySet[PushRecord]) -> None:
        for record in dead.select_related("user").iterator(chunk_size=500):
            device = record.platform if record.device_id else f"{record.platform}, device gone"
            self.stdout.write(
                f"{record.id} {record.created_at:%F %T} {record.kind} to {record.user.username} ({device}), "
                f"{record.attempts} attempts, {record.provider or 'no answer'}: {record.error or 'not in time'}"
            )
        self.stdout.write(f"{dead.count():,} pushes; {dead_letters.count_tasks():,} tasks in {dead_letters.NAME}")

    def _replay(self, dead: QuerySet[PushRecord], *, tasks_too: bool) -> None:
        pushes = ledger.replay(dead, timezone.now())
        tasks = dead_letters.replay_tasks() if tasks_too and dead_letters.count_tasks() else 0
        self.stdout.write(f"{pushes:,} pushes and {tasks:,} tasks are tried again")

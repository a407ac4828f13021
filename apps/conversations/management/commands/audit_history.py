"""
Walks the log of every conversation and says what is wrong with it: holes, doubles, heads that disagree, repeats that
would not be recognised. Safe while people chat. Exit code 1: something was found; 2: the history cannot be read.
"""

import asyncio
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from apps.conversations import audit
from apps.conversations.errors import Unavailable
from apps.conversations.history import store_from_settings
from apps.conversations.history.audit import AuditedStore, Finding

AT_ONCE = 4  # conversations, of each of which one part is in memory


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--conversation", type=_id, metavar="ID", help="this one alone")
        parser.add_argument("--since", type=_moment, metavar="WHEN", help="what is newer, such as 2026-01-31T12:00Z")
        parser.add_argument("--all", action="store_true", help="also what the database does not know of")

    def handle(self, *args: Any, **options: Any) -> None:
        walk = _Walk(self.stdout, options["since"])
        try:
            asyncio.run(walk.go(options["conversation"], everything=options["all"]))
        except Unavailable as error:
            raise CommandError(error.detail, returncode=2) from error
        found = f"{walk.findings:,} findings" if walk.findings else "nothing found"
        self.stdout.write(f"{walk.conversations:,} conversations, {walk.messages:,} messages: {found}")
        if walk.findings:
            sys.exit(1)


class _Walk:
    def __init__(self, out: OutputWrapper, since: datetime | None) -> None:
        self._out = out
        self._since = since
        self._turn = asyncio.Semaphore(AT_ONCE)
        self.conversations = self.messages = self.findings = 0

    async def go(self, conversation_id: UUID | None, *, everything: bool) -> None:
        store = store_from_settings()
        await store.start()
        try:
            with self._bar(await audit.count(conversation_id)) as bar:
                async for page in audit.conversations(conversation_id):
                    await asyncio.gather(*(self._one(store, bar, *each) for each in page))
            if everything:
                async for finding in audit.strangers(store):
                    self._tell([finding])
        finally:
            await store.close()

    def _bar(self, length: int) -> Any:
        return click.progressbar(
            length=length,
            label="Conversations",
            item_show_func=lambda _: f"{self.messages:,} messages",
            file=sys.stderr,
            hidden=not sys.stderr.isatty(),
        )

    async def _one(self, store: AuditedStore, bar: Any, conversation_id: UUID, last_read_seq: int) -> None:
        async with self._turn:
            async for part in audit.audit(store, conversation_id, last_read_seq, self._since):
                self.messages += part.messages
                self._tell(part.findings)
                bar.render_progress()
        self.conversations += 1
        bar.update(1)

    def _tell(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.findings += 1
            self._out.write(str(finding))


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no conversation's id") from None


def _moment(text: str) -> datetime:
    moment = parse_datetime(text) if "T" in text or " " in text else parse_datetime(f"{text}T00:00")
    if moment is None:
        raise ArgumentTypeError(f"{text!r} is no time such as 2026-01-31T12:00Z")
    return moment if moment.tzinfo else timezone.make_aware(moment)

"""
Tells the story of pushes, from the decision to the provider's answer, the newest first: all of one person (USERNAME),
or of one message (CONVERSATION_ID:SEQ, or its client_msg_id). Of a burst, the client_msg_id is the newest message's.
"""

import re
from argparse import ArgumentParser
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from apps.accounts.models import User
from apps.push.models import Device, PushRecord
from apps.push.wishes import wishes_of

_MESSAGE = re.compile(r"([0-9a-fA-F-]{32,36}):(\d{1,18})")


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("whose", metavar="USERNAME|MESSAGE")
        parser.add_argument("--limit", type=int, default=50)

    def handle(self, *args: Any, **options: Any) -> None:
        records = PushRecord.objects.filter(self._asked(options["whose"])).select_related("user", "device")
        found = list(records.order_by("-created_at")[: options["limit"]])
        for record in found:
            self.stdout.write("\n".join(_story(record)))
        if not found:
            self.stdout.write("No push was planned in the last 7 days.")

    def _asked(self, whose: str) -> Q:
        if message := _MESSAGE.fullmatch(whose):
            conversation_id, seq = _uuid(message[1]), int(message[2])
            return Q(conversation_id=conversation_id, seq__gte=seq, first_seq__lte=seq)
        if re.fullmatch(r"[0-9a-fA-F-]{32,36}", whose):
            return Q(client_msg_id=_uuid(whose)) | Q(id=_uuid(whose))
        user = User.objects.filter(username=whose.lower()).first()
        if user is None:
            raise CommandError(f"There is nobody called {whose!r}.")
        self._tell_of(user)
        return Q(user=user)

    def _tell_of(self, user: User) -> None:
        wishes = wishes_of(user.id)
        quiet = f"quiet from {wishes.quiet_from:%H:%M} to {wishes.quiet_until:%H:%M}" if wishes.quiet_from else "always"
        seen = "never" if user.last_seen_at is None else _moment(user.last_seen_at)
        self.stdout.write(f"{user.username}: says {wishes.content}, {quiet} ({wishes.time_zone}); last left {seen}")
        for device in Device.objects.filter(user=user).order_by("created_at"):
            self.stdout.write(f"  {_name(device)}, registered {_moment(device.registered_at)}")


def _story(record: PushRecord) -> list[str]:
    device = record.platform + " device, gone" if record.device is None else _name(record.device)
    messages = f"{record.count} messages" if record.count > 1 else f"client_msg_id {record.client_msg_id}"
    told = messages if record.kind == PushRecord.Kind.MESSAGE else "read up to there"
    lines = [
        f"{record.id} {record.kind} to {record.user.username}, {device}",
        f"  tells of {record.conversation_id}:{record.seq}, {told}",
        f"  planned {_moment(record.created_at)}",
    ]
    if record.tried_at is not None:
        lines.append(f"  tried {_moment(record.tried_at)}, attempt {record.attempts}, {record.provider or 'no answer'}")
    if record.done_at is None:
        lines.append(f"  {record.state}, due {_moment(record.due_at)}, until {_moment(record.expires_at)}")
    else:
        lines.append(f"  {record.state} {_moment(record.done_at)} {record.provider_id}".rstrip())
    if record.error:
        lines.append(f"  because: {record.error}")
    if record.cleared_at is not None:
        lines.append(f"  read {_moment(record.cleared_at)}")
    return lines


def _name(device: Device) -> str:
    return f"{device.platform} {device.name or device.id}"


def _moment(when: datetime) -> str:
    return f"{when:%F %T.%f}"[:-3] + "Z"


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise CommandError(f"{text!r} is no id.") from error

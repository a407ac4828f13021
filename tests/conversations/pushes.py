"""What tests of pushes begin with: devices, somebody who speaks, and a provider that only keeps what it is sent."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from apps.conversations import notify, services, tasks
from apps.conversations.messages import Draft, Message
from apps.conversations.models import Membership
from apps.push import services as push
from apps.push.models import PushRecord
from apps.push.notification import Push
from apps.push.policy import Notice
from apps.push.providers.base import Outcome, Result
from tests.embedded import Client


class FakeProvider:
    """Answers as it is told to, and keeps what it was sent."""

    name = "fake"

    def __init__(self) -> None:
        self.sent: list[tuple[str, Push]] = []
        self.answer: Callable[[Push], Result] = lambda _: Result(Outcome.ACCEPTED, "its-id")

    def send(self, token: str, push: Push) -> Result:
        self.sent.append((token, push))
        return self.answer(push)

    @property
    def tokens(self) -> list[str]:
        return sorted(token for token, _ in self.sent)


async def device_of(person: Client, name: str = "phone", platform: str = "fcm") -> str:
    new = push.NewDevice(platform, f"{person.person.username}'s {name}")
    await sync_to_async(push.register_device)(person.user, new)
    return new.token


async def group(ada: Client, *others: str) -> UUID:
    return await services.create_group(ada.person, "Tea", others or ["bob", "eve"])


async def say(sender: Client, conversation_id: UUID, text: str = "Are you there?") -> Message:
    return await services.send_message(Draft(conversation_id, sender.person.id, uuid4(), text))


async def notify_of(message: Message, *absent: Client) -> None:
    news = notify.news_of(message)
    notice = Notice(news, [person.person.id for person in absent] or None)
    await sync_to_async(tasks.notify_absent)([msgspec.to_builtins(notice)])


async def records(**known: Any) -> list[PushRecord]:
    return await sync_to_async(lambda: list(PushRecord.objects.filter(**known).order_by("created_at")))()


async def membership(person: Client, **changes: Any) -> None:
    await sync_to_async(Membership.objects.filter(user=person.user).update)(**changes)


async def make_due() -> None:
    """Time passes, as far as the ledger is concerned."""
    await sync_to_async(PushRecord.objects.filter(state__in=PushRecord.OPEN).update)(due_at=timezone.now())


async def queued_of(message: Message) -> list[str]:
    """Planned and with the broker; no worker has come yet."""
    queued: list[str] = []
    with pytest.MonkeyPatch.context() as broker:
        broker.setattr(tasks.send_pushes, "delay", queued.extend)
        await notify_of(message)
    return queued


async def state_of(person: Client) -> str:
    (record,) = await records(user=person.user)
    return record.state

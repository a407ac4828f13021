"""What is handed over is with the broker or in the outbox table, or it was not promised."""

import asyncio
from typing import Any

import msgspec
import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import DatabaseError
from kombu.exceptions import OperationalError

from apps.conversations.delivery import NOTIFY_TASK
from apps.push import outbox
from apps.push.models import OutboxTask
from apps.push.outbox import HandoverFailed

pytestmark = pytest.mark.usefixtures("chat")


class Numbered(msgspec.Struct):
    seq: int


@pytest.fixture
def broker(embedded_valkey: str) -> redis.Redis:
    client = redis.Redis.from_url(embedded_valkey.removesuffix("/0") + "/1")
    client.flushdb()
    return client


@pytest.fixture
def broker_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(outbox, "publish", refuse)


async def rows() -> list[OutboxTask]:
    return await sync_to_async(lambda: list(OutboxTask.objects.order_by("id")))()


async def test_the_broker_has_it_when_hand_over_returns(broker: redis.Redis) -> None:
    await outbox.hand_over(NOTIFY_TASK, Numbered(1))

    assert broker.llen("push") == 1
    assert await rows() == []


async def test_what_comes_while_a_publish_is_under_way_goes_in_one_task(broker: redis.Redis) -> None:
    await asyncio.gather(*(outbox.hand_over(NOTIFY_TASK, Numbered(number)) for number in range(50)))

    assert 1 <= broker.llen("push") <= 5


@pytest.mark.usefixtures("broker_away")
async def test_while_the_broker_is_away_the_outbox_keeps_it() -> None:
    await outbox.hand_over(NOTIFY_TASK, Numbered(1))

    assert [(row.task, row.notices) for row in await rows()] == [(NOTIFY_TASK, [{"seq": 1}])]


@pytest.mark.usefixtures("broker_away")
async def test_with_broker_and_database_away_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: Any) -> None:
        raise DatabaseError("away")

    monkeypatch.setattr(OutboxTask.objects, "create", away)
    with pytest.raises(HandoverFailed):
        await outbox.hand_over(NOTIFY_TASK, Numbered(1))


async def test_the_outbox_is_emptied_in_order_once_the_broker_is_back(broker: redis.Redis) -> None:
    for number in (1, 2):
        await sync_to_async(OutboxTask.objects.create)(task=NOTIFY_TASK, notices=[{"seq": number}])

    assert await sync_to_async(outbox.redrive)() == 2
    assert broker.llen("push") == 2
    assert await rows() == []


@pytest.mark.usefixtures("broker_away")
async def test_a_row_stays_until_the_broker_has_confirmed_it() -> None:
    await sync_to_async(OutboxTask.objects.create)(task=NOTIFY_TASK, notices=[{"seq": 1}])

    with pytest.raises(OperationalError):
        await sync_to_async(outbox.redrive)()
    assert len(await rows()) == 1

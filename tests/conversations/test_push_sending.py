"""Many pushes at a time: none holds up the others."""

import asyncio
import itertools
import threading
from collections.abc import Collection
from datetime import time, timedelta
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.conversations import composing, tasks
from apps.conversations.errors import Unavailable
from apps.conversations.messages import Message
from apps.push import ledger, sending
from apps.push.models import NotificationSettings
from apps.push.notification import Push
from apps.push.providers.base import Outcome, Result
from tests.conversations.pushes import (
    FakeProvider,
    device_of,
    group,
    make_due,
    membership,
    notify_of,
    queued_of,
    records,
    say,
    state_of,
)
from tests.embedded import Client


async def test_many_pushes_ask_the_database_as_often_as_few(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SETTLE_WITHIN_S", 10)
    asked = []
    for phones in (1, 20):
        for person, number in itertools.product((bob, eve), range(phones)):
            await device_of(person, f"phone {number}")
        queued = await queued_of(await say(ada, await group(ada)))

        def work(queued: list[str] = queued) -> None:
            with CaptureQueriesContext(connection) as captured:
                tasks.send_pushes(queued)
            asked.append(len(captured))

        await sync_to_async(work)()

    assert len(provider.sent) == 2 + 40
    assert asked[0] == asked[1] < 20


async def test_what_can_not_be_read_for_one_holds_up_no_other(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, _ = await device_of(eve), await device_of(bob)
    elsewhere, latest = await group(ada, "bob"), composing._latest

    async def partly_away(conversation_ids: Collection[UUID]) -> Any:
        if elsewhere in conversation_ids:
            raise Unavailable("away")
        return await latest(conversation_ids)

    with monkeypatch.context() as history:
        history.setattr(composing, "_latest", partly_away)
        await notify_of(await say(ada, await group(ada)))

    assert provider.tokens == [device]
    assert (await state_of(eve), await state_of(bob)) == ("sent", "waiting")


async def test_who_can_not_be_read_for_is_not_asked_about_once_more(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read of a store that is partly away takes its whole deadline, and the others wait for it."""
    device, _ = await device_of(eve), await device_of(bob)
    elsewhere, both, message_at = await group(ada, "bob"), await group(ada), composing._message
    asked: list[composing.Place] = []

    async def partly_away(conversation_ids: Collection[UUID]) -> Any:
        if elsewhere in conversation_ids:
            raise Unavailable("away")
        return {}

    async def ask(conversation_id: UUID, seq: int) -> Message | None:
        asked.append((conversation_id, seq))
        return await message_at(conversation_id, seq)

    first = await say(ada, elsewhere)
    queued = [*await queued_of(first), *await queued_of(await say(ada, both))]
    monkeypatch.setattr(composing, "_latest", partly_away)
    monkeypatch.setattr(composing, "_message", ask)
    await sync_to_async(tasks.send_pushes)(queued)

    assert [conversation_id for conversation_id, _ in asked] == [both]
    assert provider.tokens == [device]
    assert {record.error for record in await records(user=bob.user)} == {"away"}


async def test_what_took_long_to_read_still_goes(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next try would be late for the same reason, and the next."""
    device, latest, now = await device_of(bob), composing._latest, timezone.now
    queued = await queued_of(await say(ada, await group(ada, "bob")))

    async def slow(conversation_ids: Collection[UUID]) -> Any:
        monkeypatch.setattr(timezone, "now", lambda: now() + ledger.MAY_COMPOSE)
        return await latest(conversation_ids)

    monkeypatch.setattr(composing, "_latest", slow)
    await sync_to_async(tasks.send_pushes)(queued)

    assert (provider.tokens, await state_of(bob)) == ([device], "sent")


async def test_a_history_that_does_not_answer_is_one_that_is_away(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    queued = await queued_of(await say(ada, await group(ada, "bob")))

    async def silent_store(_: Collection[UUID]) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(composing, "READ_WITHIN_S", 0)
    monkeypatch.setattr(composing, "_latest", silent_store)
    await sync_to_async(tasks.send_pushes)(queued)

    assert (await state_of(bob), provider.sent) == ("waiting", [])


async def test_a_worker_too_busy_to_read_gives_its_pushes_back(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    await device_of(eve)

    async def time_out(*_: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(composing, "_history", time_out)
    await notify_of(await say(ada, await group(ada)))

    for record in await records():
        assert (record.state, record.error) == ("waiting", "what it says was not known in time")
        assert record.due_at < timezone.now() + timedelta(seconds=30)


async def test_one_whose_message_can_not_be_read_at_all_holds_up_no_other(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, _ = await device_of(eve), await device_of(bob)
    elsewhere, latest = await group(ada, "bob"), composing._latest

    async def unreadable(conversation_ids: Collection[UUID]) -> Any:
        if elsewhere in conversation_ids:
            raise ValueError("no message at all")
        return await latest(conversation_ids)

    monkeypatch.setattr(composing, "_latest", unreadable)
    await notify_of(await say(ada, await group(ada)))

    assert (provider.tokens, await state_of(eve)) == ([device], "sent")
    (record,) = await records(user=bob.user)
    assert (record.state, record.error) == ("waiting", "could not be composed: ValueError")


async def test_one_that_can_not_be_composed_holds_up_no_other(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    device, _ = await device_of(eve), await device_of(bob)
    queued = await queued_of(await say(ada, await group(ada)))
    nowhere = {"time_zone": "Nowhere/At_all", "quiet_from": time(1), "quiet_until": time(2)}
    await sync_to_async(NotificationSettings.objects.create)(user=bob.user, **nowhere)

    await sync_to_async(tasks.send_pushes)(queued)

    assert provider.tokens == [device]
    (record,) = await records(user=bob.user)
    assert (record.state, record.error) == ("waiting", "could not be composed: ZoneInfoNotFoundError")
    assert record.due_at > timezone.now() + timedelta(minutes=4), "each try is a trace in the log"


async def test_one_that_its_provider_is_slow_with_does_not_keep_the_others_from_being_written_down(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    await device_of(eve, "slow phone")
    queued = await queued_of(await say(ada, await group(ada)))
    settle, written_down, in_time = ledger.settle, threading.Event(), []

    def settle_and_say(settlements: Any) -> None:
        settle(settlements)
        if settlements:
            written_down.set()

    def send(token: str, push: Push) -> Result:
        if "slow" in token:
            in_time.append(written_down.wait(10))
        return Result(Outcome.ACCEPTED)

    monkeypatch.setattr(ledger, "settle", settle_and_say)
    monkeypatch.setattr(provider, "send", send)
    await sync_to_async(tasks.send_pushes)(queued)

    assert in_time == [True]
    assert (await state_of(bob), await state_of(eve)) == ("sent", "sent")


async def test_each_task_is_of_one_platform(
    ada: Client, bob: Client, eve: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person, platform in itertools.product((bob, eve), ("fcm", "apns")):
        await device_of(person, f"{platform} phone", platform)
    queued: list[list[str]] = []
    monkeypatch.setattr(tasks.send_pushes, "delay", queued.append)

    await notify_of(await say(ada, await group(ada)))

    platforms = [{record.platform for record in await records(id__in=push_ids)} for push_ids in queued]
    assert sorted(platforms, key=min) == [{"apns"}, {"fcm"}]


async def test_answers_that_can_not_be_written_down_are_with_the_next(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    await device_of(eve)
    queued = await queued_of(await say(ada, await group(ada)))
    provider.answer = lambda _: Result(Outcome.ACCEPTED if len(provider.sent) == 1 else Outcome.UNREGISTERED)
    monkeypatch.setattr(sending, "SETTLE_AGAIN_S", 0)
    settle = ledger.settle
    busy = [OperationalError("database is locked")] * 3

    def settle_at_last(settlements: Any) -> None:
        if busy:
            raise busy.pop()
        settle(settlements)

    def fail(*_: Any) -> None:
        raise OperationalError("deadlock detected")

    monkeypatch.setattr(ledger, "settle", settle_at_last)
    monkeypatch.setattr(ledger, "forget_device", fail)
    await sync_to_async(tasks.send_pushes)(queued)

    assert busy == []
    assert sorted([await state_of(bob), await state_of(eve)]) == ["sent", "unregistered"]


async def test_what_is_settled_already_waits_for_the_database_and_holds_up_no_push(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, _ = await device_of(bob), await device_of(eve)
    queued = await queued_of(await say(ada, await group(ada)))
    await membership(eve, last_read_seq=99)
    settle = ledger.settle

    def settle_when_sent(settlements: Any) -> None:
        if not provider.sent:
            raise OperationalError("database is locked")
        settle(settlements)

    monkeypatch.setattr(sending, "SETTLE_AGAIN_S", 0)
    monkeypatch.setattr(ledger, "settle", settle_when_sent)
    await sync_to_async(tasks.send_pushes)(queued)

    assert (provider.tokens, await state_of(bob), await state_of(eve)) == ([device], "sent", "withdrawn")


async def test_a_worker_gives_up_to_settle_what_another_may_have(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    queued = await queued_of(await say(ada, await group(ada, "bob")))

    def fail(_: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(sending, "SETTLE_AGAIN_S", 0)
    monkeypatch.setattr(ledger, "settle", fail)
    monkeypatch.setattr(ledger, "CLAIM", timedelta(seconds=5))
    await sync_to_async(tasks.send_pushes)(queued)

    assert (len(provider.sent), await state_of(bob)) == (1, "sending")


async def test_one_that_breaks_off_is_taken_up_again_and_the_others_went(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    await device_of(eve, "strange phone")

    def send(token: str, push: Push) -> Result:
        if "strange" in token:
            raise KeyError(token)
        return Result(Outcome.ACCEPTED)

    with monkeypatch.context() as strange:
        strange.setattr(provider, "send", send)
        await notify_of(await say(ada, await group(ada)))
    assert (await state_of(bob), await state_of(eve)) == ("sent", "sending")

    await make_due()
    await sync_to_async(tasks.send_due)()
    assert (await state_of(eve), provider.tokens) == ("sent", ["eve's strange phone"])

"""What becomes of a push when its provider answers, and when a worker or a store dies."""

from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from apps.conversations import composing, notify, tasks
from apps.conversations.errors import Unavailable
from apps.push import ledger
from apps.push.models import Device, PushRecord
from apps.push.notification import Push
from apps.push.providers.base import Outcome, Result
from tests.conversations.pushes import FakeProvider, device_of, group, make_due, notify_of, records, say
from tests.embedded import Client


# --- what the provider answers ---------------------------------------------------------------------------------------
async def answered(ada: Client, provider: FakeProvider, result: Result) -> PushRecord:
    provider.answer = lambda _: result
    await notify_of(await say(ada, await group(ada, "bob")))
    (record,) = await records()
    return record


async def devices() -> int:
    return await sync_to_async(Device.objects.count)()


async def test_an_accepted_push_is_written_down(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    record = await answered(ada, provider, Result(Outcome.ACCEPTED, provider_id="its-id"))
    assert (record.state, record.provider, record.provider_id, record.attempts) == ("sent", "fake", "its-id", 1)


async def test_what_may_go_later_is_tried_again_until_it_goes(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    record = await answered(ada, provider, Result(Outcome.RETRY, error="503", retry_after=timedelta(seconds=40)))
    assert (record.state, record.error) == ("waiting", "503")
    assert record.tried_at is not None
    assert record.due_at >= record.tried_at + timedelta(seconds=40)

    await sync_to_async(tasks.send_due)()
    assert len(provider.sent) == 1
    provider.answer = lambda _: Result(Outcome.ACCEPTED)
    await make_due()
    await sync_to_async(tasks.send_due)()

    (record,) = await records()
    assert (record.state, record.attempts, record.error) == ("sent", 2, "")


async def test_what_did_not_go_for_an_hour_is_a_dead_letter_and_can_be_replayed(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    await answered(ada, provider, Result(Outcome.RETRY, error="503"))
    await make_due()
    await sync_to_async(PushRecord.objects.update)(expires_at=timezone.now())
    await sync_to_async(tasks.send_due)()
    (record,) = await records()
    assert (record.state, record.error, len(provider.sent)) == ("dead", "503", 1)

    provider.answer = lambda _: Result(Outcome.ACCEPTED)
    assert await sync_to_async(ledger.replay)(PushRecord.objects.all(), timezone.now()) == 1
    await sync_to_async(tasks.send_due)()
    (record,) = await records()
    assert record.state == "sent"


async def test_what_can_never_go_is_a_dead_letter_at_once(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    record = await answered(ada, provider, Result(Outcome.REJECTED, error="PayloadTooLarge"))
    assert (record.state, record.error, await devices()) == ("dead", "PayloadTooLarge", 1)


async def test_wrong_credentials_delete_nothing_and_the_push_waits(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    record = await answered(ada, provider, Result(Outcome.MISCONFIGURED, error="InvalidProviderToken"))
    assert (record.state, await devices()) == ("waiting", 1)
    assert record.due_at > timezone.now() + timedelta(seconds=30)


async def test_a_dead_token_is_forgotten(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    record = await answered(ada, provider, Result(Outcome.UNREGISTERED))
    assert (record.state, record.device_id, await devices()) == ("unregistered", None, 0)


async def test_a_token_registered_since_it_died_is_a_living_one(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    died = timezone.now() - timedelta(days=1)
    record = await answered(ada, provider, Result(Outcome.UNREGISTERED, unregistered_at=died))
    assert (record.state, await devices()) == ("unregistered", 1)


async def test_a_token_rotated_while_the_push_was_on_its_way_stays(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    await device_of(bob)

    def rotate(_: Push) -> Result:
        Device.objects.update(token="the new one")
        return Result(Outcome.UNREGISTERED)

    provider.answer = rotate
    await notify_of(await say(ada, await group(ada, "bob")))
    assert await devices() == 1


# --- workers and stores that die -------------------------------------------------------------------------------------
async def test_what_a_worker_had_when_it_died_is_pushed_by_another(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)

    def die(_: Push) -> Result:
        raise SystemExit

    provider.answer = die
    await notify_of(await say(ada, await group(ada, "bob")))
    (record,) = await records()
    assert record.state == "sending"

    provider.answer = lambda _: Result(Outcome.ACCEPTED)
    await sync_to_async(tasks.send_due)()
    assert len(provider.sent) == 1
    await make_due()
    await sync_to_async(tasks.send_due)()

    (first, again) = (pushed for _, pushed in provider.sent)
    assert (first.push_id, first.conversation_id) == (again.push_id, again.conversation_id)
    assert [record.state for record in await records()] == ["sent"]


async def test_a_task_that_the_broker_lost_is_queued_again(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    with monkeypatch.context() as broker:
        broker.setattr(tasks.send_pushes, "delay", lambda push_ids: None)
        await notify_of(await say(ada, await group(ada, "bob")))
    assert [record.state for record in await records()] == ["queued"]

    await make_due()
    await sync_to_async(tasks.send_due)()

    assert [record.state for record in await records()] == ["sent"]


async def test_a_push_waits_while_the_history_is_away(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)

    async def away(*_: Any) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as history:
        history.setattr(composing, "_latest", away)
        await notify_of(await say(ada, await group(ada, "bob")))
    assert [(record.state, record.error) for record in await records()] == [("waiting", "away")]

    await make_due()
    await sync_to_async(tasks.send_due)()
    assert [record.state for record in await records()] == ["sent"]


async def test_the_broker_holds_so_many_and_the_ledger_the_rest(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_QUEUED", 3)
    monkeypatch.setattr(tasks, "PER_TASK", 1)
    for number in range(5):
        await device_of(bob, f"phone {number}")
    queued: list[list[str]] = []
    monkeypatch.setattr(tasks.send_pushes, "delay", queued.append)

    await notify_of(await say(ada, await group(ada, "bob")))
    await sync_to_async(tasks.send_due)()
    assert len(queued) == 3

    await sync_to_async(tasks.send_pushes)(queued[0])
    await sync_to_async(tasks.send_due)()
    assert len(queued) == 4


async def test_what_the_broker_does_not_take_is_due_again_at_once(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(push_ids: list[str]) -> None:
        raise ConnectionRefusedError

    await device_of(bob)
    message = await say(ada, await group(ada, "bob"))
    with monkeypatch.context() as broker:
        broker.setattr(tasks.send_pushes, "delay", refuse)
        with pytest.raises(ConnectionRefusedError):
            await notify_of(message)
    assert not provider.sent

    await sync_to_async(tasks.send_due)()
    assert [pushed.seq for _, pushed in provider.sent] == [message.seq]


async def test_so_many_devices_are_written_at_a_time_and_none_is_left_out(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MEMBERS_AT_ONCE", 1)
    monkeypatch.setattr(notify, "DEVICES_AT_ONCE", 2)
    devices = [await device_of(person, f"phone {number}") for person in (bob, eve) for number in range(5)]
    plan, sizes = ledger.plan, []
    monkeypatch.setattr(ledger, "plan", lambda news, ids, now: (sizes.append(len(ids)), plan(news, ids, now)))

    await notify_of(await say(ada, await group(ada)))

    assert sizes == [2, 2, 1, 2, 2, 1]
    assert provider.tokens == sorted(devices)

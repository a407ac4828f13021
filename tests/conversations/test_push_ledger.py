"""What the ledger keeps of pushes: repeats, bursts, what is read meanwhile, how many there are."""

import tracemalloc
from datetime import timedelta
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import notify, services, tasks
from apps.push import ledger, sending
from apps.push import services as push
from apps.push.models import Device, PushRecord
from tests.conversations.pushes import FakeProvider, device_of, group, make_due, membership, notify_of, records, say
from tests.embedded import Client


# --- bursts, repeats, reading ----------------------------------------------------------------------------------------
async def test_a_burst_is_one_push_at_once_and_one_more_with_the_count(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    conversation_id = await group(ada, "bob")
    messages = [await say(ada, conversation_id, f"number {index}") for index in range(4)]
    for message in messages:
        await notify_of(message)
    assert [pushed.body for _, pushed in provider.sent] == ["Ada: number 0"]

    await make_due()
    await sync_to_async(tasks.send_due)()

    (_, pushed) = provider.sent[-1]
    assert (pushed.seq, pushed.count, pushed.title, pushed.body) == (messages[-1].seq, 3, "Tea (3)", "Ada: number 3")
    assert len(provider.sent) == 2


async def test_the_same_news_again_makes_no_second_push(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    conversation_id = await group(ada, "bob")
    message, newer = await say(ada, conversation_id), await say(ada, conversation_id)
    for told in (newer, newer, message):
        await notify_of(told)
        await make_due()

    await sync_to_async(tasks.send_due)()

    assert [pushed.seq for _, pushed in provider.sent] == [newer.seq]


async def test_reading_withdraws_what_waits_and_takes_away_what_is_shown(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    conversation_id = await group(ada, "bob")
    shown, waiting = await say(ada, conversation_id), await say(ada, conversation_id)
    await notify_of(shown)
    await notify_of(waiting)

    await services.mark_read(bob.person, conversation_id, waiting.seq)
    assert [record.state for record in await records()] == ["sent", "withdrawn", "waiting"]
    await make_due()
    await sync_to_async(tasks.send_due)()
    await services.mark_read(bob.person, conversation_id, waiting.seq)

    assert [(pushed.kind, pushed.seq, pushed.badge) for _, pushed in provider.sent] == [
        ("message", shown.seq, 3),
        ("clear", waiting.seq, 0),
    ]
    assert [record.state for record in await records(kind="message")] == ["sent", "withdrawn"]


async def test_what_is_just_being_sent_is_taken_away_after_it_has_arrived(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    conversation_id = await group(ada, "bob")
    message = await say(ada, conversation_id)
    monkeypatch.setattr(sending, "send", lambda pushes, settled: None)  # the provider has not answered yet
    await notify_of(message)

    await services.mark_read(bob.person, conversation_id, message.seq)

    (clear,) = await records(kind="clear")
    assert clear.due_at == clear.created_at + ledger.UNDER_WAY


async def test_what_is_said_while_a_clear_is_just_being_sent_goes_after_it_has_arrived(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    conversation_id = await group(ada, "bob")
    message = await say(ada, conversation_id)
    await notify_of(message)
    await services.mark_read(bob.person, conversation_id, message.seq)
    with monkeypatch.context() as silent_provider:
        silent_provider.setattr(sending, "send", lambda pushes, settled: None)
        await make_due()
        await sync_to_async(tasks.send_due)()

    newer = await say(ada, conversation_id)
    await notify_of(newer)

    (clear,), (waiting,) = await records(kind="clear"), await records(seq=newer.seq)
    assert (clear.state, waiting.state, len(provider.sent)) == ("sending", "waiting", 1)
    assert clear.tried_at is not None
    assert waiting.due_at == clear.tried_at + ledger.UNDER_WAY


async def test_what_waits_for_a_phone_that_changes_hands_goes_to_nobody(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await device_of(bob)
    queued: list[list[str]] = []
    monkeypatch.setattr(tasks.send_pushes, "delay", queued.append)
    await notify_of(await say(ada, await group(ada, "bob")))
    await sync_to_async(push.register_device)(ada.user, push.NewDevice("fcm", token))

    await sync_to_async(tasks.send_pushes)(*queued)

    assert provider.sent == []
    assert [record.state for record in await records()] == ["withdrawn"]


async def test_what_is_read_before_the_worker_gets_to_it_is_withdrawn(
    ada: Client, bob: Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(bob)
    queued: list[list[str]] = []
    monkeypatch.setattr(tasks.send_pushes, "delay", queued.append)
    await notify_of(await say(ada, await group(ada, "bob")))
    await membership(bob, last_read_seq=99)

    await sync_to_async(tasks.send_pushes)(*queued)

    (record,) = await records()
    assert (record.state, record.error, provider.sent) == ("withdrawn", "read", [])


# --- the ledger ------------------------------------------------------------------------------------------------------
async def test_the_ledger_forgets_after_a_week(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    await notify_of(await say(ada, await group(ada, "bob")))

    now = timezone.now()
    assert await sync_to_async(ledger.purge)(now + timedelta(days=6)) == 0
    assert await sync_to_async(ledger.purge)(now + timedelta(days=7, seconds=1)) == 1


async def test_what_is_said_is_nowhere_but_in_the_history(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    message = await say(ada, await group(ada, "bob"), "only for bob")
    await notify_of(message)

    (record,) = await records()
    assert "only for bob" not in repr(vars(record))
    assert "only for bob" not in repr(notify.news_of(message))


# --- how many --------------------------------------------------------------------------------------------------------
def _plan_100_000(user: User, device: Device) -> None:
    now = timezone.now()
    one = PushRecord.objects.create(
        kind="message", user=user, device=device, platform="fcm", conversation_id=uuid4(),
        first_seq=1, seq=1, due_at=now, expires_at=now + timedelta(hours=1),
    )  # fmt: skip
    own = {"id", "conversation_id"}
    columns = [field.column for field in PushRecord._meta.concrete_fields if field.column not in own]
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
            f" INSERT INTO push_pushrecord (id, conversation_id, {', '.join(columns)})"
            f" SELECT lower(hex(randomblob(16))), lower(hex(randomblob(16))), {', '.join(columns)}"
            " FROM push_pushrecord, n WHERE id = %s",
            [one.id.hex],
        )


async def test_a_hundred_thousand_pushes_wait_in_the_table_and_not_in_memory(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await device_of(ada)
    await sync_to_async(_plan_100_000)(ada.user, await Device.objects.aget())
    with_the_broker: list[list[str]] = []
    monkeypatch.setattr(tasks.send_pushes, "delay", with_the_broker.append)

    tracemalloc.start()
    await sync_to_async(tasks.send_due)()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert {len(push_ids) for push_ids in with_the_broker} == {tasks.PER_TASK}
    assert len({push_id for push_ids in with_the_broker for push_id in push_ids}) == ledger.MAX_QUEUED
    assert peak < 10_000_000
    assert await PushRecord.objects.filter(state="waiting").acount() == 100_000 - ledger.MAX_QUEUED

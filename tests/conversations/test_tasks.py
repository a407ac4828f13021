"""From a message to the provider: who is told, of what, and what becomes of the ledger."""

import asyncio
import itertools
import threading
import tracemalloc
from collections.abc import Callable, Collection
from datetime import time, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import composing, notify, services, tasks
from apps.conversations.errors import Unavailable
from apps.conversations.messages import Draft, Message
from apps.conversations.models import Membership
from apps.presence import node
from apps.push import ledger, sending
from apps.push import services as push
from apps.push.models import Device, NotificationSettings, PushRecord
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


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """Whatever platform a device is of; the tasks that send run at once."""
    fake = FakeProvider()
    monkeypatch.setattr(sending, "provider_for", lambda platform: fake)
    monkeypatch.setattr(tasks.send_pushes, "delay", tasks.send_pushes)
    monkeypatch.setattr(tasks.notify_absent, "delay", lambda notices: None)
    return fake


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


# --- who -------------------------------------------------------------------------------------------------------------
async def test_absent_members_get_one_for_each_device_and_the_sender_none(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    await device_of(ada)
    devices = [await device_of(bob), await device_of(bob, "laptop"), await device_of(eve)]

    await notify_of(await say(ada, await group(ada)))

    assert provider.tokens == sorted(devices)


async def test_only_those_who_were_absent_are_asked_about(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    device, _ = await device_of(bob), await device_of(eve)

    await notify_of(await say(ada, await group(ada)), bob)

    assert provider.tokens == [device]


async def test_to_tell_many_who_have_no_device_is_one_question(ada: Client, bob: Client, eve: Client) -> None:
    talk = await group(ada)
    said = [notify.news_of(await say(ada, talk, f"{number} green bottles")) for number in range(10)]
    notices = [msgspec.to_builtins(Notice(news, [bob.person.id, eve.person.id])) for news in said]

    def work() -> int:
        with CaptureQueriesContext(connection) as captured:
            tasks.notify_absent(notices)
        return len(captured)

    assert await sync_to_async(work)() == 1


async def test_who_is_back_gets_none_unless_they_are_away_from_what_they_have_open(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    device, _ = await device_of(bob), await device_of(eve)
    message = await say(ada, await group(ada))
    registry = node.current().registry
    for roster, person in ((registry.online, bob), (registry.online, eve), (registry.away, bob)):
        await roster.arrive("node.any.boot", [str(person.person.id)])

    await notify_of(message)

    assert provider.tokens == [device]


async def silent(provider: FakeProvider, message: Message) -> bool:
    await notify_of(message)
    return provider.sent == []


async def test_who_has_read_it_gets_none(ada: Client, bob: Client, eve: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    message = await say(ada, await group(ada))
    await services.mark_read(bob.person, message.conversation_id, message.seq)

    assert await silent(provider, message)


async def test_who_has_left_or_was_banned_gets_none(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    await device_of(eve)
    message = await say(ada, await group(ada))
    await services.remove_member(bob.person, message.conversation_id, "bob")
    await sync_to_async(User.objects.filter(username="eve").update)(is_active=False)

    assert await silent(provider, message)


async def test_who_came_later_gets_none(ada: Client, bob: Client, eve: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    message = await say(ada, await group(ada, "eve"))
    await services.add_member(ada.person, message.conversation_id, "bob")
    await membership(bob, last_read_seq=0)

    assert await silent(provider, message)


async def test_who_has_blocked_the_sender_gets_none(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    message = await say(ada, await group(ada))
    await services.block(bob.person, "ada")

    assert await silent(provider, message)


async def test_who_has_muted_the_conversation_gets_none(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    message = await say(ada, await group(ada))
    await membership(bob, muted_until=timezone.now() + timedelta(hours=1))

    assert await silent(provider, message)


async def test_quiet_hours_are_kept(ada: Client, bob: Client, eve: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    message = await say(ada, await group(ada))
    now = timezone.now()
    hours = {"quiet_from": (now - timedelta(hours=1)).time(), "quiet_until": (now + timedelta(hours=1)).time()}
    await sync_to_async(NotificationSettings.objects.create)(user=bob.user, **hours)

    assert await silent(provider, message)


async def test_who_wants_mentions_only_is_told_of_those(
    ada: Client, bob: Client, eve: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    conversation_id = await group(ada)
    await membership(bob, mentions_only=True)

    assert await silent(provider, await say(ada, conversation_id, "hello all"))
    await notify_of(await say(ada, conversation_id, "hello @Bob"))
    assert [pushed.body for _, pushed in provider.sent] == ["Ada: hello @Bob"]


# --- what ------------------------------------------------------------------------------------------------------------
async def test_a_push_says_who_wrote_what_and_how_much_is_unread(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    await device_of(bob)
    direct, _ = await services.direct_conversation(ada.person, "bob")
    await say(ada, await group(ada, "bob"))
    message = await say(ada, direct)

    await notify_of(message)

    (_, pushed), *others = provider.sent
    assert others == []
    assert (pushed.kind, pushed.conversation_id, pushed.seq) == ("message", direct, message.seq)
    assert (pushed.title, pushed.body, pushed.path) == ("Ada", "Are you there?", f"/c/{direct}/")
    assert (pushed.badge, pushed.count) == (3, 1)  # the group's system message counts too


@pytest.mark.parametrize(
    ("wanted", "allowed", "said"),
    [
        ("full", "full", ("Tea", "Ada: Are you there?")),
        ("sender", "full", ("Tea", "New message from Ada")),
        ("full", "sender", ("Tea", "New message from Ada")),
        ("full", "none", ("Chat", "New message")),
        ("none", "full", ("Chat", "New message")),
    ],
)
async def test_it_says_no_more_than_the_person_wants_and_the_installation_allows(
    ada: Client, bob: Client, provider: FakeProvider, settings: Any, wanted: str, allowed: str, said: tuple[str, str]
) -> None:
    settings.PUSH_CONTENT = allowed
    await device_of(bob)
    await sync_to_async(NotificationSettings.objects.create)(user=bob.user, content=wanted)

    await notify_of(await say(ada, await group(ada, "bob")))

    assert [(pushed.title, pushed.body) for _, pushed in provider.sent] == [said]


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


# --- many at a time --------------------------------------------------------------------------------------------------
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


# --- the sweep -------------------------------------------------------------------------------------------------------
async def sweep(after: timedelta) -> None:
    await sync_to_async(notify.sweep)(timezone.now() + after)
    await make_due()
    await sync_to_async(tasks.send_due)()


async def test_who_only_seemed_to_be_there_is_told_when_it_shows(
    ada: Client, bob: Client, provider: FakeProvider
) -> None:
    device = await device_of(bob)
    roster = node.current().registry.online
    await roster.arrive("node.any.boot", [str(bob.person.id)])
    message = await say(ada, await group(ada, "bob"))
    await notify_of(message)
    await sweep(timedelta(seconds=66))
    assert provider.sent == []

    await roster.depart("node.any.boot", [str(bob.person.id)])
    await sweep(timedelta(seconds=1))
    assert provider.sent == []
    await sweep(timedelta(seconds=66))
    await sweep(timedelta(seconds=66))

    assert [(token, pushed.seq) for token, pushed in provider.sent] == [(device, message.seq)]


async def test_nobody_is_told_of_what_happened_too_long_ago(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    await say(ada, await group(ada, "bob"))

    await sweep(timedelta(hours=1, seconds=1))
    assert provider.sent == []
    await sweep(timedelta(seconds=66))
    assert provider.sent == []  # nor looked at again


async def test_an_earlier_mention_is_found_too(ada: Client, bob: Client, provider: FakeProvider) -> None:
    await device_of(bob)
    conversation_id = await group(ada, "bob")
    await membership(bob, mentions_only=True)
    await say(ada, conversation_id, "hello @bob")
    await say(ada, conversation_id, "hello eve")

    await sweep(timedelta(seconds=66))

    assert [pushed.body for _, pushed in provider.sent] == ["Ada: hello @bob"]


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

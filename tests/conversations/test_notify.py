"""Who is told of a message by a push, and what it says."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import notify, services, tasks
from apps.conversations.messages import Message
from apps.presence import node
from apps.push.models import NotificationSettings
from apps.push.policy import Notice
from tests.conversations.pushes import FakeProvider, device_of, group, make_due, membership, notify_of, say
from tests.embedded import Client


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


async def test_to_look_at_many_where_nobody_has_a_device_is_one_question(ada: Client, bob: Client) -> None:
    for _ in range(5):
        await say(ada, await group(ada, "bob"))

    def work() -> int:
        with CaptureQueriesContext(connection) as captured:
            notify.sweep(timezone.now() + timedelta(seconds=66))
        return len(captured)

    assert await sync_to_async(work)() == 1

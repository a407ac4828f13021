"""What is kept in memory of who is in a conversation, and when it is not believed."""

import asyncio
import gc
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db.models import F

from apps.accounts.people import Person
from apps.conversations import memberships, services
from apps.conversations.errors import NotAMember, NotFound, Unavailable
from apps.conversations.messages import Draft
from apps.conversations.models import Conversation, Membership
from tests.embedded import Client


@pytest.fixture
async def group(ada: Client, bob: Client) -> UUID:
    return await services.create_group(ada.person, "tea", ["bob"])


async def test_a_known_conversation_is_answered_from_memory(
    ada: Client, group: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memberships.of(group, ada.person.id)

    async def away(*_: Any) -> Any:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(memberships, "in_db", away)
    assert ada.person.id in (await memberships.of(group, ada.person.id)).present


async def test_while_the_database_is_away_a_conversation_goes_on_as_last_known(
    ada: Client, group: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memberships.of(group, ada.person.id)
    memberships.forget_all()

    async def away(*_: Any) -> Any:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(memberships, "in_db", away)
    assert (await memberships.of(group, ada.person.id)).title == "tea"
    with pytest.raises(Unavailable):
        await memberships.of(UUID(int=7), ada.person.id)


class Reads:
    """Of who is in a conversation: counted, and each held up after it, until `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._in_db = memberships.in_db
        self._done, self._go_on = asyncio.Event(), asyncio.Event()
        self.asked = asyncio.Event()  # whether somebody may join
        monkeypatch.setattr(memberships, "in_db", self._hold)

    async def _hold(self, function: Any, *args: Any) -> Any:
        if function is memberships._was_ever_in:
            self.asked.set()
        if function is not memberships._load:
            return await self._in_db(function, *args)
        self.count += 1
        read = await self._in_db(function, *args)
        self._done.set()
        await self._go_on.wait()
        return read

    async def begun(self) -> None:
        """One has read, and nobody has heard what."""
        await asyncio.wait_for(self._done.wait(), 10)

    def go_on(self) -> None:
        self._go_on.set()


@pytest.fixture
async def tea(ada: Client, bob: Client) -> UUID:
    """A group of which nobody was told: nothing of it is on its way between nodes."""
    conversation = await Conversation.objects.acreate(kind=Conversation.Kind.GROUP, title="tea")
    for who, role in ((ada, Membership.Role.OWNER), (bob, Membership.Role.MEMBER)):
        await Membership.objects.acreate(conversation=conversation, user_id=who.person.id, role=role)
    return conversation.id


@pytest.fixture
def held(tea: UUID, monkeypatch: pytest.MonkeyPatch) -> Reads:
    memberships.forget_all()
    return Reads(monkeypatch)


async def join(conversation_id: UUID, who: Client) -> None:
    """By another node, which this one has not heard of yet."""
    await Membership.objects.acreate(conversation_id=conversation_id, user_id=who.person.id)
    await Conversation.objects.filter(id=conversation_id).aupdate(members_version=F("members_version") + 1)


async def test_what_was_read_before_a_change_is_not_kept(bob: Client, eve: Client, tea: UUID, held: Reads) -> None:
    asked = asyncio.create_task(memberships.of(tea, bob.person.id))
    await held.begun()
    await join(tea, eve)
    memberships.expire(tea)
    held.go_on()
    assert eve.person.id in (await asked).present
    assert eve.person.id in (await memberships.of(tea, bob.person.id)).present


async def test_nor_is_it_when_who_asked_has_gone(bob: Client, eve: Client, tea: UUID, held: Reads) -> None:
    asked = asyncio.create_task(memberships.of(tea, bob.person.id))
    await held.begun()
    asked.cancel()
    await join(tea, eve)
    memberships.expire(tea)
    reading = memberships._readings()[tea].task
    held.go_on()
    await reading
    assert eve.person.id in (await memberships.known(tea)).present


async def test_a_change_elsewhere_costs_no_second_read(bob: Client, tea: UUID, held: Reads) -> None:
    asked = asyncio.create_task(memberships.of(tea, bob.person.id))
    await held.begun()
    memberships.expire(uuid4())
    held.go_on()
    await asked
    await memberships.of(tea, bob.person.id)
    assert held.count == 1


async def test_one_reads_for_all_who_ask_meanwhile(ada: Client, bob: Client, tea: UUID, held: Reads) -> None:
    first = asyncio.create_task(memberships.of(tea, bob.person.id))
    await held.begun()
    others = [memberships.of(tea, each.person.id) for each in (ada, bob) * 10] + [memberships.known(tea)]
    waiting = asyncio.gather(*others)
    first.cancel()  # who asked first has gone
    held.go_on()
    assert {members.title for members in await waiting} == {"tea"}
    assert held.count == 1


async def test_who_became_a_member_while_it_was_read_is_not_refused(
    bob: Client, eve: Client, tea: UUID, held: Reads
) -> None:
    asked = asyncio.create_task(memberships.of(tea, bob.person.id))
    await held.begun()
    await join(tea, eve)
    joined = asyncio.create_task(memberships.of(tea, eve.person.id))
    await held.asked.wait()
    held.go_on()
    assert eve.person.id in (await joined).present
    await asked


async def test_a_stranger_does_not_notice_that_it_is_read(bob: Client, eve: Client, tea: UUID, held: Reads) -> None:
    asked = asyncio.create_task(memberships.of(tea, bob.person.id))
    await held.begun()
    with pytest.raises(NotFound):
        await asyncio.wait_for(memberships.of(tea, eve.person.id), 10)
    held.go_on()
    await asked


async def test_what_a_stranger_did_not_find_is_there_for_a_member(
    bob: Client, eve: Client, tea: UUID, held: Reads
) -> None:
    stranger = asyncio.create_task(memberships.of(tea, eve.person.id))
    await held.begun()
    member = asyncio.create_task(memberships.of(tea, bob.person.id))
    held.go_on()
    assert (await member).title == "tea"
    with pytest.raises(NotFound):
        await stranger


async def test_a_change_that_many_are_told_of_is_read_once(
    bob: Client, eve: Client, tea: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await memberships.of(tea, bob.person.id)
    await join(tea, eve)
    reads = Reads(monkeypatch)
    reads.go_on()

    found = await asyncio.gather(*(memberships.newer(tea, before.version + 1) for _ in range(20)))
    assert {members.version for members in found} == {before.version + 1}
    assert reads.count == 1


async def test_a_change_is_read_once_though_a_reading_from_before_it_goes_on(
    bob: Client, eve: Client, tea: UUID, held: Reads
) -> None:
    before = asyncio.create_task(memberships.of(tea, bob.person.id))
    await held.begun()
    await join(tea, eve)
    told = asyncio.gather(*(memberships.newer(tea, 1) for _ in range(20)))
    held.go_on()
    assert {members.version for members in await told} == {1}
    assert held.count == 2
    await before


async def test_where_it_changes_all_the_time_two_reads_are_enough(
    bob: Client, tea: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    memberships.forget_all()
    in_db, count = memberships.in_db, 0

    async def overtaken(function: Any, *args: Any) -> Any:
        nonlocal count
        count += function is memberships._load
        read = await in_db(function, *args)
        memberships.expire(tea)
        return read

    monkeypatch.setattr(memberships, "in_db", overtaken)
    found = await asyncio.gather(*(memberships.of(tea, bob.person.id) for _ in range(20)))
    assert [members.title for members in found] == ["tea"] * 20
    assert count == 2


async def test_a_reading_that_fails_refuses_nobody_for_good(
    ada: Client, bob: Client, eve: Client, tea: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await memberships.of(tea, bob.person.id)
    memberships.expire(tea)
    await join(tea, eve)
    in_db, broken = memberships.in_db, asyncio.Event()

    async def breaks(function: Any, *args: Any) -> Any:
        if function is not memberships._load:
            return await in_db(function, *args)
        await broken.wait()
        raise Unavailable("The database is away.")

    monkeypatch.setattr(memberships, "in_db", breaks)
    asked = [asyncio.create_task(memberships.of(tea, each.person.id)) for each in (ada, bob, eve)]
    await asyncio.sleep(0)
    asked[0].cancel()
    broken.set()
    assert (await asked[1]).title == "tea"  # as last known
    with pytest.raises(Unavailable):  # and not NotFound
        await asked[2]


async def test_nobody_is_left_to_hear_that_a_reading_failed(
    bob: Client, tea: UUID, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memberships.forget_all()
    broken = asyncio.Event()

    async def breaks(*_: Any) -> Any:
        await broken.wait()
        raise Unavailable("The database is away.")

    monkeypatch.setattr(memberships, "in_db", breaks)
    asked = asyncio.create_task(memberships.of(tea, bob.person.id))
    await asyncio.sleep(0)
    reading = memberships._readings()[tea].task
    asked.cancel()
    await asyncio.wait([asked])
    broken.set()
    await asyncio.wait([reading])
    del asked, reading
    gc.collect()
    assert caplog.records == []


def test_what_expired_long_ago_counts_as_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memberships, "MAX_EXPIRED", 2)
    kept = memberships.Kept[str, str]()
    for name in ("tea", "coffee", "cocoa"):
        kept.expire(name)  # 1, 2, 3: the first is forgotten
    assert [kept.expired_since(name, 1) for name in ("tea", "coffee", "cocoa", "milk")] == [False, True, True, False]
    assert [kept.expired_since(name, 0) for name in ("tea", "milk")] == [True, True]
    kept.expire_all()
    assert kept.expired_since("milk", 3)
    assert not kept.expired_since("milk", 4)


def said_by(person: Person, conversation_id: UUID) -> Draft:
    return Draft(conversation_id, person.id, uuid4(), "hello")


async def test_a_node_that_missed_a_removal_stores_nothing_more_of_who_was_removed(
    ada: Client, bob: Client, group: UUID
) -> None:
    before = await memberships.of(group, bob.person.id)
    await services.remove_member(ada.person, group, "bob")
    memberships.conversations.keep(group, before)

    with pytest.raises(NotAMember):
        await services.send_message(said_by(bob.person, group))
    assert (await services.send_message(said_by(ada.person, group))).seq == 3


async def test_a_node_that_missed_a_change_sends_on_for_who_is_still_there(
    ada: Client, bob: Client, eve: Client, group: UUID
) -> None:
    before = await memberships.of(group, bob.person.id)
    await services.add_member(ada.person, group, "eve")
    memberships.conversations.keep(group, before)

    assert (await services.send_message(said_by(bob.person, group))).seq == 3
    assert eve.person.id in (await memberships.known(group)).present


async def test_a_database_that_is_older_than_the_log_takes_over_where_the_log_is(
    ada: Client, bob: Client, eve: Client, group: UUID
) -> None:
    await services.add_member(ada.person, group, "eve")
    await Conversation.objects.filter(id=group).aupdate(members_version=0)  # restored from a backup
    memberships.forget_all()

    assert (await services.send_message(said_by(bob.person, group))).seq == 3
    assert (await Conversation.objects.aget(id=group)).members_version == 1


async def test_nothing_is_said_by_the_word_of_old_members_while_the_database_is_away(
    ada: Client, bob: Client, group: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await memberships.of(group, bob.person.id)
    await services.remove_member(ada.person, group, "bob")
    memberships.conversations.keep(group, before)

    async def away(*_: Any) -> Any:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(memberships, "in_db", away)
    with pytest.raises(Unavailable):
        await services.send_message(said_by(bob.person, group))


async def test_a_stranger_and_one_who_has_left_are_told_apart(
    ada: Client, bob: Client, eve: Client, group: UUID
) -> None:
    await services.remove_member(bob.person, group, "bob")

    with pytest.raises(NotAMember):
        await memberships.of(group, bob.person.id)
    with pytest.raises(NotFound):
        await memberships.of(group, eve.person.id)


async def test_who_is_unknown_to_the_database_still_has_a_name_as_a_sender(chat: None) -> None:
    assert await memberships.names([UUID(int=7)]) == {}
    assert (await memberships.senders([UUID(int=7)]))[UUID(int=7)].username == "unknown"

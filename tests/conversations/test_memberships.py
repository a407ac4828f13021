"""What is kept in memory of who is in a conversation, and when it is not believed."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from apps.accounts.people import Person
from apps.conversations import memberships, services
from apps.conversations.errors import NotAMember, NotFound, Unavailable
from apps.conversations.messages import Draft
from apps.conversations.models import Conversation
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


async def test_what_was_read_before_a_change_is_not_kept(
    ada: Client, bob: Client, eve: Client, group: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_db = memberships.in_db
    memberships.forget_all()
    changes = iter(["eve joins"])

    async def overtaken(function: Any, *args: Any) -> Any:
        read = await in_db(function, *args)
        if next(changes, None):
            await services.add_member(ada.person, group, "eve")
        return read

    monkeypatch.setattr(memberships, "in_db", overtaken)
    assert eve.person.id in (await memberships.of(group, bob.person.id)).present
    assert eve.person.id in (await memberships.of(group, bob.person.id)).present


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

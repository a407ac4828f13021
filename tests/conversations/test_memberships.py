"""What is kept in memory of who is in a conversation, and when it is not believed."""

from typing import Any
from uuid import UUID

import pytest

from apps.conversations import memberships, services
from apps.conversations.errors import NotAMember, NotFound, Unavailable
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

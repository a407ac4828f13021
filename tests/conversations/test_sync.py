"""What someone has missed: few conversations and many are asked about differently, and answered alike."""

from collections.abc import Mapping
from uuid import UUID, uuid4

import msgspec
import pytest
from django.db import OperationalError

from apps.conversations import memberships, reads, services
from apps.conversations.errors import Unavailable
from apps.conversations.history.group_commit import History
from apps.conversations.messages import Draft
from tests.embedded import Client

pytestmark = [pytest.mark.asyncio, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the history and of the database."""
    asked: list[str] = []
    for name in ("latest", "after"):
        real = getattr(History, name)

        def counting(*args: object, name: str = name, real: object = real) -> object:
            asked.append(name)
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(History, name, counting)
    in_db = memberships.in_db

    def asking(*args: object) -> object:
        asked.append("database")
        return in_db(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(memberships, "in_db", asking)
    return asked


async def _say(person: Client, conversation_id: UUID, number: int) -> None:
    for index in range(number):
        await services.send_message(Draft(conversation_id, person.person.id, uuid4(), f"message {index}"))


async def _synced(person: Client, cursors: Mapping[UUID, int]) -> list[object]:
    return [msgspec.to_builtins(each) for each in await reads.sync(person.person, cursors)]


@pytest.mark.parametrize("held", [0, 1, 4, 5, 6, 7, 8, 99, 2**53], ids="held={}".format)
async def test_one_of_few_is_answered_as_one_of_many(
    ada: Client, bob: Client, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "SYNC_PER_CONVERSATION", 3)
    conversation_id, _ = await services.direct_conversation(ada.person, "bob")
    await _say(ada, conversation_id, 8)

    few = await _synced(ada, {conversation_id: held})
    monkeypatch.setattr(reads, "FEW", 0)
    many = await _synced(ada, {conversation_id: held})

    assert few == many
    assert few[0]["last_seq"] == 8  # type: ignore[index]
    assert [message["seq"] for message in few[0]["messages"]] == [*range(held + 1, 9)][:3]  # type: ignore[index]
    assert few[0]["more"] is (held < 5)  # type: ignore[index]


async def test_a_foreign_and_an_empty_conversation_are_answered_alike_too(
    ada: Client, bob: Client, eve: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, _ = await services.direct_conversation(ada.person, "bob")
    foreign, _ = await services.direct_conversation(bob.person, "eve")
    left = await services.create_group(bob.person, "tea", ["ada"])
    await services.remove_member(ada.person, left, "ada")
    cursors = {empty: 0, foreign: 0, left: 0, uuid4(): 3}

    few = await _synced(ada, cursors)
    monkeypatch.setattr(reads, "FEW", 0)

    assert few == await _synced(ada, cursors)
    assert [entry.get("error") for entry in few] == [None, *["not_a_member"] * 3]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("held", "questions"),
    [(0, ["after", "latest"]), (2, ["after", "latest"]), (3, ["after"]), (8, ["after"]), (9, ["after", "latest"])],
)
async def test_to_learn_what_is_new_takes_one_question_unless_there_is_more_or_less_than_that(
    ada: Client, bob: Client, asked: list[str], held: int, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "SYNC_PER_CONVERSATION", 5)
    conversation_id, _ = await services.direct_conversation(ada.person, "bob")
    await _say(ada, conversation_id, 8)
    await reads.sync(ada.person, {conversation_id: 0})  # which looks up who it was that spoke

    asked.clear()
    await reads.sync(ada.person, {conversation_id: held})

    assert asked == questions


async def test_who_asks_again_and_again_is_looked_up_once(ada: Client, bob: Client, asked: list[str]) -> None:
    conversation_id, _ = await services.direct_conversation(ada.person, "bob")
    await _say(ada, conversation_id, 1)
    memberships.conversations.expire_all()  # as after half a minute
    await reads.sync(ada.person, {conversation_id: 0})
    assert "database" in asked

    asked.clear()
    await reads.sync(ada.person, {conversation_id: 0})
    assert "database" not in asked


async def test_who_was_removed_is_not_remembered_from_before(ada: Client, bob: Client) -> None:
    group = await services.create_group(ada.person, "tea", ["bob"])
    memberships.conversations.expire_all()
    assert (await _synced(bob, {group: 0}))[0]["last_seq"] == 1  # type: ignore[index]

    await services.remove_member(ada.person, group, "bob")

    assert await _synced(bob, {group: 0}) == [{"conversation_id": str(group), "error": "not_a_member"}]


async def test_while_the_database_is_away_nobody_hears_from_memory_that_they_are_no_member(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await services.create_group(ada.person, "tea", [])
    await services.add_member(ada.person, group, "bob")
    memberships.forget_all()

    def away(*_: object) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(memberships, "_stored_starts", away)
    with pytest.raises(Unavailable):
        await reads.sync(bob.person, {group: 0})

"""What someone has missed: few conversations and many are asked about differently, and answered alike."""

from collections.abc import Mapping
from uuid import UUID, uuid4

import msgspec
import pytest

from apps.conversations import memberships, reads, services
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
            if name == "after" or args[1]:  # nothing is asked about no conversation
                asked.append(name)
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(History, name, counting)
    for module in (memberships, reads):
        real = module.in_db  # type: ignore[attr-defined]

        def asking(*args: object, real: object = real) -> object:
            asked.append("database")
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(module, "in_db", asking)
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


async def test_to_learn_what_is_new_in_one_conversation_takes_one_question(
    ada: Client, bob: Client, asked: list[str]
) -> None:
    conversation_id, _ = await services.direct_conversation(ada.person, "bob")
    await _say(ada, conversation_id, 8)
    await reads.sync(ada.person, {conversation_id: 0})  # which looks up who it was that spoke

    for held in (0, 3, 8):
        asked.clear()
        await reads.sync(ada.person, {conversation_id: held})
        assert asked == ["after"]


async def test_who_asks_again_and_again_is_looked_up_once(ada: Client, bob: Client, asked: list[str]) -> None:
    conversation_id, _ = await services.direct_conversation(ada.person, "bob")
    await _say(ada, conversation_id, 1)
    memberships.conversations.expire_all()  # as after half a minute
    asked.clear()

    await reads.sync(ada.person, {conversation_id: 0})
    assert "database" in asked

    asked.clear()
    await reads.sync(ada.person, {conversation_id: 0})
    assert "database" not in asked

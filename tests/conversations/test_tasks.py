"""Who of a conversation gets a push: decided by the worker, at the time it gets to it."""

from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async

from apps.conversations import services, tasks
from apps.presence import node
from apps.push import services as push
from tests.embedded import Client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the devices that a push was made for."""
    devices: list[str] = []
    monkeypatch.setattr(tasks.send_push, "delay", lambda device_id, notice: devices.append(device_id))
    return devices


async def device_of(person: Client) -> str:
    register = sync_to_async(push.register_device)
    return str((await register(person.user, push.NewDevice("fcm", f"token of {person.person.username}"))).id)


async def group(ada: Client) -> dict[str, Any]:
    conversation_id = await services.create_group(ada.person, "tea", ["bob", "eve"])
    return {"conversation_id": str(conversation_id), "seq": 1, "sender": "ada", "user_ids": None}


async def notify(notice: dict[str, Any]) -> None:
    await sync_to_async(tasks.notify_absent)([notice])


async def test_absent_members_get_one_for_each_device_and_the_sender_none(
    ada: Client, bob: Client, eve: Client, sent: list[str]
) -> None:
    devices = [await device_of(person) for person in (ada, bob, eve)]

    await notify(await group(ada))

    assert sorted(sent) == sorted(devices[1:])


async def test_only_those_who_were_absent_are_asked_about(
    ada: Client, bob: Client, eve: Client, sent: list[str]
) -> None:
    device, _ = await device_of(bob), await device_of(eve)

    await notify(await group(ada) | {"user_ids": [str(bob.person.id)]})

    assert sent == [device]


async def test_who_is_back_gets_none(ada: Client, bob: Client, eve: Client, sent: list[str]) -> None:
    await device_of(bob)
    notice = await group(ada)
    await node.current().registry.online.arrive("node.any.boot", [str(bob.person.id)])

    await notify(notice)

    assert sent == []


async def test_who_has_read_it_gets_none(ada: Client, bob: Client, eve: Client, sent: list[str]) -> None:
    await device_of(bob)
    notice = await group(ada)
    await bob.put(f"conversations/{notice['conversation_id']}/read", {"seq": 1})

    await notify(notice)

    assert sent == []


async def test_who_has_left_gets_none(ada: Client, bob: Client, eve: Client, sent: list[str]) -> None:
    await device_of(bob)
    notice = await group(ada)
    await services.remove_member(bob.person, UUID(notice["conversation_id"]), "bob")

    await notify(notice | {"seq": 9})

    assert sent == []

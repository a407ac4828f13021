"""Who is connected and uses none of their clients gets the frame and a push, and a message is asked about once more."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels.testing import WebsocketCommunicator

from apps.conversations import delivery, services
from apps.conversations.messages import Draft
from apps.presence import node
from apps.push import outbox
from apps.push.policy import Notice
from chatproject.asgi import application
from tests.embedded import Client

AWAY_AFTER_S = 120


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[Notice]:
    """What is handed to the workers."""
    handed: list[Notice] = []

    async def hand_over(task: str, notice: Notice) -> None:
        assert task == delivery.NOTIFY_TASK
        handed.append(notice)

    monkeypatch.setattr(outbox, "hand_over", hand_over)
    return handed


@asynccontextmanager
async def connected(person: Client) -> AsyncIterator[WebsocketCommunicator]:
    headers = [(name.lower().encode(), value.encode()) for name, value in person.headers.items()]
    socket = WebsocketCommunicator(application, "/ws/v1/", headers)
    assert (await socket.connect(timeout=10))[0]
    assert json.loads(await socket.receive_from())["type"] == "hello"
    yield socket
    await socket.disconnect()


async def say(sender: Client, conversation_id: UUID) -> None:
    await services.send_message(Draft(conversation_id, sender.person.id, uuid4(), "hello"))


async def heartbeat(socket: WebsocketCommunicator, **fields: Any) -> None:
    await socket.send_to(json.dumps({"type": "heartbeat", **fields}))
    while json.loads(await socket.receive_from())["type"] != "heartbeat.ack":
        pass


def leave_alone(person: Client) -> None:
    """Time passes without use."""
    for socket in node.current().hub.sockets_of(person.person.id):
        socket.last_active = time.monotonic() - AWAY_AFTER_S - 1


async def test_who_does_not_use_what_they_have_open_gets_the_frame_and_a_push(
    ada: Client, bob: Client, notices: list[Notice]
) -> None:
    direct, _ = await services.direct_conversation(ada.person, "bob")
    async with connected(bob) as socket:
        await say(ada, direct)
        assert notices == []

        leave_alone(bob)
        await heartbeat(socket, active=False)
        await say(ada, direct)

        assert [notice.user_ids for notice in notices] == [[bob.person.id]]
        while json.loads(await socket.receive_from()).get("message", {}).get("seq") != 2:
            pass


@pytest.mark.parametrize("fields", [{"active": True}, {}])
async def test_a_heartbeat_of_a_client_in_use_keeps_pushes_away(
    ada: Client, bob: Client, notices: list[Notice], fields: dict[str, bool]
) -> None:
    direct, _ = await services.direct_conversation(ada.person, "bob")
    async with connected(bob) as socket:
        leave_alone(bob)
        await heartbeat(socket, **fields)
        await say(ada, direct)
    assert notices == []


async def test_who_says_something_is_there(ada: Client, bob: Client, notices: list[Notice]) -> None:
    direct, _ = await services.direct_conversation(ada.person, "bob")
    async with connected(ada), connected(bob) as socket:
        leave_alone(bob)
        frame = {"type": "message.send", "client_msg_id": str(uuid4()), "conversation_id": str(direct), "content": "hi"}
        await socket.send_to(json.dumps(frame))
        while json.loads(await socket.receive_from())["type"] != "ack":
            pass
        await say(ada, direct)
    assert notices == []


async def test_a_conversation_with_a_message_is_looked_at_again(
    ada: Client, bob: Client, notices: list[Notice]
) -> None:
    direct, _ = await services.direct_conversation(ada.person, "bob")
    recent = node.current().registry.recent
    assert await recent.until(time.time() + 1, 10) == []

    await say(ada, direct)

    assert await recent.until(time.time() + 1, 10) == [direct]
    assert await recent.until(time.time() - 60, 10) == []
    await recent.forget([direct], time.time() - 60)
    assert await recent.until(time.time() + 1, 10) == [direct]
    await recent.forget([direct], time.time() + 1)
    assert await recent.until(time.time() + 1, 10) == []

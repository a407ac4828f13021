"""Clients that do not read what they are sent: what they cost, what they get, and when they are closed."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator

from apps.accounts.models import User
from apps.conversations import admission, outgoing
from apps.conversations.backlog import MAX_FRAMES
from apps.presence import node
from chatproject.asgi import application
from tests.conversations.test_consumers import Socket
from tests.embedded import Client
from tests.system.servers import eventually


class Line:
    """Between the chat and one client, who reads only while `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def when_it_reads(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                await self.reads.wait()
            await send(message)

        await application(scope, receive, when_it_reads)


async def connect(person: Client) -> tuple[Socket, Line, Any]:
    """A client that has read its `hello` and reads nothing more, and the consumer at the other end."""
    line = Line()
    headers = [(b"authorization", person.headers["Authorization"].encode())]
    communicator = WebsocketCommunicator(line, "/ws/v1/", headers=headers)
    connected, _ = await communicator.connect()
    assert connected
    socket = Socket(communicator)
    assert (await socket.receive())["type"] == "hello"
    line.reads.clear()
    (consumer,) = node.current().hub.sockets_of(person.person.id)
    consumer.push(b'{"type":"noise"}')
    await asyncio.sleep(0)  # now a frame is on its way
    return socket, line, consumer


async def test_one_resync_stands_for_what_it_did_not_read(ada: Client) -> None:
    socket, line, consumer = await connect(ada)
    await socket.send({"type": "heartbeat"})
    for _ in range(MAX_FRAMES * 4):
        assert consumer.push(b'{"type":"noise"}')
    line.reads.set()

    seen = [(await socket.receive())["type"] for _ in range(3)]

    assert sorted(seen) == ["heartbeat.ack", "noise", "resync"]
    consumer.push(b'{"type":"later"}')
    assert (await socket.receive())["type"] == "later"
    await socket.close()


async def test_still_behind_after_a_while_it_is_closed_with_4408(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "BEHIND_S", 0.05)
    socket, _, consumer = await connect(ada)
    for _ in range(MAX_FRAMES * 2):
        consumer.push(b'{"type":"noise"}')

    assert await socket.receive() == {"type": "close", "code": 4408}
    assert not consumer.push(b'{"type":"noise"}'), "whoever is closed counts as absent"
    await socket.close()


async def test_who_catches_up_in_time_stays(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "BEHIND_S", 0.2)
    socket, line, consumer = await connect(ada)
    for _ in range(MAX_FRAMES * 2):
        consumer.push(b'{"type":"noise"}')
    line.reads.set()
    assert (await socket.receive("resync", "close"))["type"] == "resync"

    assert consumer._out._deadline is None
    await socket.close()


async def test_its_answers_are_asked_for_only_as_it_reads_them(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.conversations.backlog.MAX_FRAMES", 8)
    socket, line, consumer = await connect(ada)
    for number in range(20):
        await socket.send({"type": "sync", "cursors": {}, "ref": str(number)})
    await eventually(lambda: consumer._commands.qsize() == 15)  # five answers are as many as may wait
    line.reads.set()

    assert [(await socket.receive("synced"))["ref"] for _ in range(20)] == [str(number) for number in range(20)]
    await socket.close()


async def test_whoever_never_reads_answers_is_closed_in_the_end(ada: Client) -> None:
    socket, _, consumer = await connect(ada)
    for _ in range(1_100):
        consumer._reply(b'{"type":"heartbeat.ack"}')

    assert await socket.receive() == {"type": "close", "code": 4408}
    await socket.close()


async def test_watching_more_people_than_may_wait_brings_the_status_of_each(ada: Client) -> None:
    number = MAX_FRAMES + 44
    made = [User(username=f"u{each}", display_name=f"U {each}", password="!") for each in range(number)]
    people = await sync_to_async(User.objects.bulk_create)(made)
    socket, line, _ = await connect(ada)
    await socket.send({"type": "presence.watch", "user_ids": [str(user.id) for user in people]})
    line.reads.set()

    answers = [await socket.receive("presence", "resync", "close") for _ in range(number)]

    assert {answer.get("user_id") for answer in answers} == {str(user.id) for user in people}
    await socket.close()


async def test_a_session_that_ends_closes_its_socket_though_it_does_not_read(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "LAST_WORDS_S", 0.05)
    socket, _, consumer = await connect(ada)

    await consumer.close(4401)

    assert await socket.receive() == {"type": "close", "code": 4401}
    await socket.close()


async def test_what_waits_for_it_does_not_count_against_others(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.conversations.backlog.MAX_FRAMES", 8)
    socket, line, consumer = await connect(ada)
    asked = [str(uuid4()) for _ in range(20)]
    for client_msg_id in asked:
        await socket.send({"type": "message.send", "client_msg_id": client_msg_id, "to": "bob", "content": "x"})
    await eventually(lambda: consumer._commands.empty() and not consumer._is_read)
    assert admission.door().sends.under_way == 0
    line.reads.set()

    answers = [await socket.receive("ack", "nack") for _ in asked]

    assert {answer["client_msg_id"] for answer in answers} == set(asked)
    assert {answer.get("code") for answer in answers} == {None, "unavailable"}
    assert (await socket.say(to="bob"))["type"] == "ack"
    await socket.close()


async def test_a_node_with_too_much_to_do_says_so_to_each_message_before_it_closes(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.conversations.history.pressure.LOWEST", 0)
    admission.door().sends.bound = 0
    socket, line, consumer = await connect(ada)
    line.reads.set()
    for _ in range(5):
        await socket.send({"type": "message.send", "client_msg_id": str(uuid4()), "to": "bob", "content": "x"})
    await eventually(lambda: len(consumer._out._not_at_once) == 5)
    await consumer.close(4401)

    answers = [await socket.receive("nack", "close") for _ in range(6)]

    assert [answer.get("code") for answer in answers] == ["unavailable"] * 5 + [4401]
    assert all(answer["retry_after_ms"] for answer in answers[:5])
    await socket.close()

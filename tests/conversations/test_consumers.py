"""The WebSocket as a client meets it: one process, real stores, every answer that protocol.md names."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels.testing import WebsocketCommunicator

from apps.conversations import services
from apps.conversations.consumers import ChatConsumer
from apps.conversations.errors import Unavailable
from apps.conversations.history import log
from apps.presence import metrics, node
from chatproject.asgi import application
from tests.embedded import Client


class Socket:
    """A connected client of one person."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self._communicator = communicator

    async def send(self, frame: Any) -> None:
        await self._communicator.send_to(frame if isinstance(frame, str) else json.dumps(frame))

    async def send_bytes(self, data: bytes) -> None:
        await self._communicator.send_to(bytes_data=data)

    async def receive(self, *types: str) -> dict[str, Any]:
        """The next frame of one of these types, or of any."""
        while True:
            event = await self._communicator.receive_output(timeout=5)
            if event["type"] == "websocket.close":
                return {"type": "close", "code": event["code"]}
            frame = json.loads(event["text"])
            if not types or frame["type"] in types:
                return dict(frame)

    async def say(self, content: str = "hello", **fields: Any) -> dict[str, Any]:
        """The answer to a message."""
        await self.send({"type": "message.send", "client_msg_id": str(uuid4()), "content": content} | fields)
        return await self.receive("ack", "nack", "close")

    async def close(self) -> None:
        await self._communicator.disconnect()


async def connect(person: Client) -> Socket:
    headers = [(b"authorization", person.headers["Authorization"].encode())]
    communicator = WebsocketCommunicator(application, "/ws/v1/", headers=headers)
    connected, _ = await communicator.connect()
    assert connected
    return Socket(communicator)


async def test_hello_comes_first_and_says_who_and_where(ada: Client) -> None:
    socket = await connect(ada)
    hello = await socket.receive()

    assert hello["type"] == "hello"
    assert hello["user"]["username"] == "ada"
    assert (hello["heartbeat_interval_ms"], hello["offline_after_ms"]) == (30_000, 60_000)
    assert hello["limits"]["content_chars"] == 8_000
    assert hello["node_id"] == node.current().name
    await socket.close()


async def test_a_message_reaches_every_socket_of_every_member_and_is_acked_last(ada: Client, bob: Client) -> None:
    phone, laptop, bobs = await connect(ada), await connect(ada), await connect(bob)
    client_msg_id = str(uuid4())

    await phone.send(
        {"type": "message.send", "client_msg_id": client_msg_id, "to": "bob", "content": " hi ", "ref": "r"}
    )

    seen = [await socket.receive("message.created", "ack") for socket in (phone, laptop, bobs)]
    assert all(frame["message"]["content"] == "hi" for frame in seen)
    assert seen[0]["message"] == seen[1]["message"] == seen[2]["message"]
    ack = await phone.receive("ack")
    assert (ack["ref"], ack["client_msg_id"], ack["seq"]) == ("r", client_msg_id, 1)
    assert ack["sent_at"] == seen[0]["message"]["sent_at"]
    for socket in (phone, laptop, bobs):
        await socket.close()


async def test_the_same_message_again_gets_the_first_ack_whatever_it_says(ada: Client, bob: Client) -> None:
    socket = await connect(ada)
    client_msg_id = str(uuid4())
    first = await socket.say("one", to="bob", client_msg_id=client_msg_id)
    again = await socket.say("another", to="bob", client_msg_id=client_msg_id, after_seq=0)

    assert again == first
    stored = await (await log()).before(UUID(first["conversation_id"]), None, 10)
    assert [message.content for message in stored] == ["one"]
    await socket.close()


async def test_to_names_the_one_direct_conversation(ada: Client, bob: Client) -> None:
    mine, theirs = await connect(ada), await connect(bob)
    assert (await mine.say(to="bob"))["conversation_id"] == (await theirs.say(to="ADA"))["conversation_id"]
    await mine.close()
    await theirs.close()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "nobody"}, "not_found"),
        ({"to": "ada"}, "forbidden"),
        ({"conversation_id": str(uuid4())}, "not_found"),
        ({"to": "bob", "content": " "}, "bad_frame"),
        ({"to": "bob", "client_msg_id": "7"}, "bad_frame"),
    ],
)
async def test_what_cannot_be_sent_is_refused_and_the_socket_stays(
    ada: Client, bob: Client, fields: dict[str, Any], code: str
) -> None:
    socket = await connect(ada)

    nack = await socket.say(**fields)

    assert (nack["type"], nack["code"], nack["retry"]) == ("nack", code, False)
    assert (await socket.say(to="bob"))["type"] == "ack"
    await socket.close()


async def test_a_stranger_cannot_tell_a_foreign_conversation_from_none(ada: Client, bob: Client, eve: Client) -> None:
    socket, strangers = await connect(ada), await connect(eve)
    theirs = (await socket.say(to="bob"))["conversation_id"]

    foreign = await strangers.say(conversation_id=theirs)
    none = await strangers.say(conversation_id=str(uuid4()))

    assert {**foreign, "client_msg_id": ""} == {**none, "client_msg_id": ""}
    await socket.close()
    await strangers.close()


async def test_who_was_removed_is_told_so_and_can_neither_send_nor_sync(ada: Client, bob: Client) -> None:
    socket, removed = await connect(ada), await connect(bob)
    group = await services.create_group(ada.person, "tea", ["bob"])
    assert (await removed.receive("conversation.updated"))["conversation"]["id"] == str(group)

    await services.remove_member(ada.person, group, "bob")

    while "removed" not in (told := await removed.receive("conversation.updated")):
        pass
    assert told["removed"] is True
    assert (await removed.say(conversation_id=str(group)))["code"] == "not_a_member"
    await removed.send({"type": "sync", "cursors": {str(group): 0}})
    assert (await removed.receive("synced"))["conversations"] == [
        {"conversation_id": str(group), "error": "not_a_member"}
    ]
    await socket.close()
    await removed.close()


async def test_a_blocked_person_is_refused_and_heard_again_when_unblocked(ada: Client, bob: Client) -> None:
    socket = await connect(ada)
    assert (await socket.say(to="bob"))["type"] == "ack"

    await services.block(bob.person, "ada")
    assert (await socket.say(to="bob"))["code"] == "blocked"
    await services.unblock(bob.person, "ada")
    assert (await socket.say(to="bob"))["type"] == "ack"
    await socket.close()


async def test_sync_brings_what_was_missed_oldest_first(ada: Client, bob: Client) -> None:
    socket, late = await connect(ada), await connect(bob)
    for number in range(5):
        conversation = (await socket.say(str(number), to="bob"))["conversation_id"]

    await late.send({"type": "sync", "cursors": {conversation: 2}, "ref": "s"})

    synced = await late.receive("synced")
    entry = synced["conversations"][0]
    assert synced["ref"] == "s"
    assert [message["seq"] for message in entry["messages"]] == [3, 4, 5]
    assert (entry["last_seq"], entry["more"]) == (5, False)
    await socket.close()
    await late.close()


async def test_sync_ahead_of_the_log_says_where_the_log_ends(ada: Client, bob: Client) -> None:
    socket = await connect(ada)
    conversation = (await socket.say(to="bob"))["conversation_id"]

    await socket.send({"type": "sync", "cursors": {conversation: 99}})

    entry = (await socket.receive("synced"))["conversations"][0]
    assert (entry["messages"], entry["last_seq"], entry["more"]) == ([], 1, False)
    await socket.close()


async def test_sync_is_bounded_and_says_that_there_is_more(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.conversations.reads.SYNC_PER_CONVERSATION", 3)
    socket = await connect(ada)
    for number in range(5):
        conversation = (await socket.say(str(number), to="bob"))["conversation_id"]

    await socket.send({"type": "sync", "cursors": {conversation: 0}})
    first = (await socket.receive("synced"))["conversations"][0]
    await socket.send({"type": "sync", "cursors": {conversation: first["messages"][-1]["seq"]}})
    second = (await socket.receive("synced"))["conversations"][0]

    assert [message["seq"] for message in first["messages"] + second["messages"]] == [1, 2, 3, 4, 5]
    assert (first["more"], second["more"]) == (True, False)
    await socket.close()


async def test_a_view_begins_where_its_member_joined(ada: Client, bob: Client) -> None:
    socket, late = await connect(ada), await connect(bob)
    group = await services.create_group(ada.person, "tea", [])
    await socket.say("before", conversation_id=str(group))
    await services.add_member(ada.person, group, "bob")
    await socket.say("after", conversation_id=str(group))

    await late.send({"type": "sync", "cursors": {str(group): 0}})

    messages = (await late.receive("synced"))["conversations"][0]["messages"]
    assert [message["content"] for message in messages] == ["Ada added Bob", "after"]
    await socket.close()
    await late.close()


async def test_presence_is_told_for_each_watched_user_and_on_every_change(ada: Client, bob: Client) -> None:
    socket = await connect(ada)
    await socket.send({"type": "presence.watch", "user_ids": [str(bob.person.id)]})
    assert (await socket.receive("presence"))["status"] == "offline"

    bobs = await connect(bob)
    assert (await socket.receive("presence"))["status"] == "online"
    await bobs.close()
    gone = await socket.receive("presence")
    assert gone["status"] == "offline"
    assert gone["last_seen_at"].endswith("Z")
    await socket.close()


async def test_a_heartbeat_is_answered_while_a_send_waits_for_the_store(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = await connect(ada)
    decided = asyncio.Event()
    history = await log()
    append = history.append

    async def slow(*draft: Any) -> Any:
        await decided.wait()
        return await append(*draft)

    monkeypatch.setattr(history, "append", slow)
    await socket.send({"type": "message.send", "client_msg_id": str(uuid4()), "to": "bob", "content": "x"})
    await socket.send({"type": "heartbeat"})

    assert (await socket.receive("heartbeat.ack", "ack"))["type"] == "heartbeat.ack"
    decided.set()
    assert (await socket.receive("ack"))["seq"] == 1
    await socket.close()


async def test_who_leaves_while_a_watch_waits_for_its_turn_leaves_no_watch(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    its_turn, waits = asyncio.Event(), asyncio.Event()

    async def slow_down(self: ChatConsumer) -> None:
        waits.set()
        await its_turn.wait()

    monkeypatch.setattr(ChatConsumer, "_slow_down", slow_down)
    socket = await connect(ada)
    (consumer,) = node.current().hub.sockets_of(ada.person.id)
    await socket.send({"type": "presence.watch", "user_ids": [str(bob.person.id)]})
    await waits.wait()
    await socket.close()
    its_turn.set()
    await consumer._worker

    assert node.current().hub.watched() == []


async def test_a_store_that_is_away_is_answered_with_unavailable_and_when_to_try_again(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = await connect(ada)

    async def away(*_: Any) -> Any:
        raise Unavailable("The history did not decide in time.", retry_after_ms=500)

    monkeypatch.setattr(await log(), "append", away)
    nack = await socket.say(to="bob")

    assert (nack["code"], nack["retry"], nack["retry_after_ms"]) == ("unavailable", True, 500)
    await socket.close()


async def test_a_bug_is_answered_with_its_id_and_the_socket_lives_on(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    socket = await connect(ada)
    with monkeypatch.context() as broken:
        broken.setattr("apps.conversations.throttle.take", lambda *_: 1 / 0)
        nack = await socket.say(to="bob")

    assert (nack["code"], nack["retry"]) == ("internal", False)
    assert any(getattr(record, "bug", "") and record.bug in nack["detail"] for record in caplog.records)
    assert (await socket.say(to="bob"))["type"] == "ack"
    await socket.close()


async def test_sending_too_fast_is_refused_with_the_time_to_wait(ada: Client, bob: Client, settings: Any) -> None:
    settings.CHAT_SENDS_PER_10S = 3
    socket = await connect(ada)
    answers = [await socket.say(to="bob") for _ in range(4)]

    assert [answer["type"] for answer in answers] == ["ack", "ack", "ack", "nack"]
    assert answers[-1]["code"] == "rate_limited"
    assert 0 < answers[-1]["retry_after_ms"] <= 10_000
    await socket.close()


async def test_binary_frames_are_refused(ada: Client) -> None:
    socket = await connect(ada)
    await socket.send_bytes(b"\x00\x01")

    assert (await socket.receive("nack"))["code"] == "bad_frame"
    await socket.close()


async def test_twenty_bad_frames_in_a_minute_close_with_4400_after_their_answers(ada: Client) -> None:
    socket = await connect(ada)
    for _ in range(20):
        await socket.send("rubbish")

    answers = [await socket.receive("nack", "close") for _ in range(21)]
    assert [answer["type"] for answer in answers] == ["nack"] * 20 + ["close"]
    assert answers[-1]["code"] == 4400


async def test_a_flood_is_closed_with_4429(ada: Client, settings: Any) -> None:
    settings.CHAT_SENDS_PER_10S = 2
    socket = await connect(ada)
    for _ in range(20):
        await socket.send({"type": "heartbeat"})

    assert (await socket.receive("close", "nack"))["code"] == 4429


async def test_one_socket_too_many_is_closed_with_4409(ada: Client, settings: Any) -> None:
    settings.CHAT_SOCKETS_PER_USER = 2
    sockets = [await connect(ada) for _ in range(3)]

    assert await sockets[2].receive() == {"type": "close", "code": 4409}
    assert (await sockets[1].receive())["type"] == "hello"
    for socket in sockets[:2]:
        await socket.close()


async def test_a_socket_that_reads_too_slowly_gets_one_resync_instead(ada: Client, monkeypatch: Any) -> None:
    socket = await connect(ada)
    await socket.receive("hello")
    (consumer,) = node.current().hub.sockets_of(ada.person.id)
    for number in range(1_100):  # without giving its writer a turn
        consumer.push(json.dumps({"type": "noise", "number": number}).encode())

    assert (await socket.receive())["type"] == "resync"
    await socket.close()


@pytest.mark.parametrize("path", ["/ws/v1/?token=x", "/ws/v2/", "/"])
async def test_nobody_gets_in_without_a_header(chat: None, path: str) -> None:
    communicator = WebsocketCommunicator(application, path)
    connected, _ = await communicator.connect()

    assert not connected


async def test_two_who_press_at_once_get_one_direct_conversation(ada: Client, bob: Client) -> None:
    made = await asyncio.gather(
        *(services.direct_conversation(ada.person, "bob") for _ in range(4)),
        *(services.direct_conversation(bob.person, "ada") for _ in range(4)),
    )

    assert len({conversation_id for conversation_id, _ in made}) == 1
    assert sum(created for _, created in made) == 1


async def test_an_owner_who_leaves_hands_over_to_the_longest_serving_admin(
    ada: Client, bob: Client, eve: Client
) -> None:
    group = await services.create_group(ada.person, "tea", ["bob", "eve"])
    await services.change_role(ada.person, group, "eve", "admin")

    await services.remove_member(ada.person, group, "ada")

    out = (await bob.get(f"conversations/{group}")).json()
    assert {member["username"]: member["role"] for member in out["members"]} == {"bob": "member", "eve": "owner"}
    assert out["last_message"]["content"] == "Ada left"


async def test_what_clients_report_is_counted_once_in_ten_seconds(ada: Client) -> None:
    socket = await connect(ada)
    before = [metrics.client_gap_repairs._value.get(), metrics.client_lost._value.get()]

    await socket.send({"type": "report", "gap_repairs": 3, "lost": 1})
    await socket.send({"type": "report", "gap_repairs": 1_000, "lost": 1_000})

    refused = await socket.receive("nack")
    assert (refused["code"], refused["retry"]) == ("rate_limited", True)
    after = [metrics.client_gap_repairs._value.get(), metrics.client_lost._value.get()]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 1]
    await socket.close()

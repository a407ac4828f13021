"""Real servers that are asked for too much: who is refused, what is kept, and what it costs."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.system.servers import Installation, eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SOCKETS = 20
SILENT, LARGE_MESSAGES = 10, 300
SENDERS, EACH = 10, 80


@pytest.fixture(scope="module", params=["daphne", "uvicorn"])
def chat(
    request: pytest.FixtureRequest, embedded_valkey: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    stores = {"REDIS_URL": embedded_valkey, "BROKER_URL": embedded_valkey.removesuffix("/0") + "/1"}
    data = tmp_path_factory.mktemp("overload")
    settings = {"CHAT_SOCKETS_PER_NODE": str(SOCKETS)}
    with Installation(data, stores, nodes=1, server=request.param, **settings) as installation:
        yield installation


def opening(chat: Installation, user: dict[str, Any], **options: Any) -> connect:
    headers = {"Authorization": f"Bearer {user['token']}"}
    return connect(chat.nodes[0].socket_url, additional_headers=headers, compression=None, **options)


def send(conversation: str, content: str) -> tuple[str, str]:
    client_msg_id = str(uuid4())
    frame = {"type": "message.send", "client_msg_id": client_msg_id, "conversation_id": conversation}
    return client_msg_id, json.dumps(frame | {"content": content}, ensure_ascii=False)


async def answers(socket: ClientConnection, number: int) -> dict[str, dict[str, Any]]:
    """The next so many acks and nacks, by client_msg_id."""
    got: dict[str, dict[str, Any]] = {}
    async with asyncio.timeout(60):
        while len(got) < number:
            frame = json.loads(await socket.recv())
            if frame["type"] in ("ack", "nack"):
                got[frame["client_msg_id"]] = frame
    return got


async def stored(socket: ClientConnection, conversation: str) -> list[str]:
    """The client_msg_ids in a conversation's history, oldest first."""
    ids: list[str] = []
    async with asyncio.timeout(60):
        while True:
            await socket.send(json.dumps({"type": "sync", "cursors": {conversation: len(ids)}, "ref": "here"}))
            while (frame := json.loads(await socket.recv())).get("ref") != "here":
                pass
            if frame["type"] == "nack":
                await asyncio.sleep(frame["retry_after_ms"] / 1_000)  # as a client does
                continue
            (entry,) = frame["conversations"]
            ids += [message["client_msg_id"] for message in entry["messages"]]
            if not entry["more"]:
                return ids


async def test_what_is_acked_of_too_much_is_there_and_the_rest_may_be_tried_again(chat: Installation) -> None:
    """More is sent at once than the node can do: first through open sockets, then through too many of them."""
    users = chat.load_users(SENDERS, 0)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(opening(chat, user)) for user in users]
        asked = [[send(user["direct_conversation_id"], "x") for _ in range(EACH)] for user in users]
        for frames in zip(*asked, strict=True):
            for socket, (_, frame) in zip(sockets, frames, strict=True):
                await socket.send(frame)
        told = await asyncio.gather(*(answers(socket, EACH) for socket in sockets))

        acked: dict[str, set[str]] = {}
        for user, mine, got in zip(users, asked, told, strict=True):
            assert {client_msg_id for client_msg_id, _ in mine} == got.keys()
            assert all(answer["type"] == "ack" or answer["retry"] for answer in got.values())
            acked.setdefault(user["direct_conversation_id"], set()).update(
                client_msg_id for client_msg_id, answer in got.items() if answer["type"] == "ack"
            )
        assert sum(map(len, acked.values())) > 0
        for user, socket in zip(users, sockets, strict=True):
            assert acked[user["direct_conversation_id"]] <= set(await stored(socket, user["direct_conversation_id"]))
        await _the_door_is_closed_when_the_node_is_full(chat, users)


async def _the_door_is_closed_when_the_node_is_full(chat: Installation, users: list[dict[str, Any]]) -> None:
    async with AsyncExitStack() as stack:
        for user in users:  # a second socket each
            await stack.enter_async_context(opening(chat, user))
        with pytest.raises(InvalidStatus) as refused:
            await stack.enter_async_context(opening(chat, users[0]))
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) > 0
    assert chat.nodes[0].is_ready


async def test_clients_that_never_read_cost_little_and_are_told_to_catch_up(chat: Installation) -> None:
    ada, bob = chat.load_users(2, 0)
    conversation = ada["direct_conversation_id"]
    assert chat.nodes[0].process is not None
    process = psutil.Process(chat.nodes[0].process.pid)
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(opening(chat, bob, max_size=None))
        await _say_large(writer, conversation, 20)  # what the node needs once is no part of what sockets cost
        silent = [
            await stack.enter_async_context(opening(chat, ada, max_size=None, max_queue=1)) for _ in range(SILENT)
        ]
        before = process.memory_info().rss
        await _say_large(writer, conversation, LARGE_MESSAGES)
        grown_mb = (process.memory_info().rss - before) / 1_000_000

        # Unbounded, it would be what was sent less what the system holds: about 60 MB.
        assert grown_mb < 3 * SILENT
        async with asyncio.timeout(30):
            while json.loads(await silent[0].recv())["type"] != "resync":
                pass
        assert len(await stored(silent[0], conversation)) >= 20 + LARGE_MESSAGES
        for each in silent:
            each.transport.abort()
    await eventually(lambda: chat.nodes[0].is_ready)


async def _say_large(socket: ClientConnection, conversation: str, number: int) -> None:
    left = number
    while left:
        together = min(left, 10)
        for _ in range(together):
            await socket.send(send(conversation, "🙂" * 8_000)[1])
        left -= sum(answer["type"] == "ack" for answer in (await answers(socket, together)).values())

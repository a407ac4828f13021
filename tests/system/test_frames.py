"""Frames of any size through a real server: too large a one in, and large ones out."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Frame, Opcode

from tests.system.client import ChatClient
from tests.system.servers import Installation

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture(params=["daphne", "uvicorn"])
async def chat(request: pytest.FixtureRequest, embedded_stores: dict[str, str], tmp_path: Path) -> AsyncIterator[Any]:
    with Installation(tmp_path, embedded_stores, nodes=1, server=request.param) as installation:
        yield installation


async def open_socket(chat: Installation, token: str) -> ClientConnection:
    url = chat.nodes[0].socket_url
    socket = await connect(url, additional_headers={"Authorization": f"Bearer {token}"}, max_size=None)
    assert json.loads(await socket.recv())["type"] == "hello"
    return socket


async def answer(socket: ClientConnection, frame: dict[str, Any], kind: str) -> dict[str, Any]:
    await socket.send(json.dumps(frame))
    return await heard(socket, kind)


async def heard(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (got := json.loads(await socket.recv()))["type"] != kind:
            pass
    return dict(got)


async def test_a_frame_over_64_kib_closes_its_socket_alone_and_stores_nothing(chat: Installation) -> None:
    ada, bob = chat.load_users(2, 0)
    conversation = ada["direct_conversation_id"]
    large, other = await open_socket(chat, ada["token"]), await open_socket(chat, bob["token"])
    frame = {"type": "message.send", "client_msg_id": str(uuid4()), "conversation_id": conversation, "content": "a"}

    await large.send(json.dumps(frame | {"ref": "r" * 65_536}))
    async with asyncio.timeout(10):
        with suppress(ConnectionClosedError):
            async for _ in large:
                pass

    assert large.close_code in (1009, 4413)
    synced = await answer(other, {"type": "sync", "cursors": {conversation: 0}}, "synced")
    assert synced["conversations"][0]["last_seq"] == 0
    await other.close()


async def test_frames_are_taken_in_their_order_however_they_are_cut(chat: Installation) -> None:
    ada, _ = chat.load_users(2, 0)
    socket = await open_socket(chat, ada["token"])
    contents = [str(number) for number in range(7)]
    sends = [
        json.dumps(
            {"type": "message.send", "client_msg_id": str(uuid4()), "content": each}
            | {"conversation_id": ada["direct_conversation_id"]}
        ).encode()
        for each in contents
    ]
    whole = [Frame(Opcode.TEXT, send).serialize(mask=True) for send in sends]
    in_parts = Frame(Opcode.TEXT, sends[2][:20], fin=False).serialize(mask=True)
    in_parts += Frame(Opcode.PING, b"?").serialize(mask=True)
    in_parts += Frame(Opcode.CONT, sends[2][20:]).serialize(mask=True)

    # Two at once, one in parts with the beginning of the next, its end with two more, and one by itself.
    socket.transport.write(whole[0] + whole[1] + in_parts + whole[3][:50])
    stored = [await heard(socket, "message.created") for _ in range(3)]
    socket.transport.write(whole[3][50:] + whole[4] + whole[5])
    stored += [await heard(socket, "message.created") for _ in range(3)]
    socket.transport.write(whole[6])
    stored.append(await heard(socket, "message.created"))

    assert [(got["message"]["seq"], got["message"]["content"]) for got in stored] == list(enumerate(contents, 1))
    await socket.close()


async def test_who_missed_more_than_one_frame_holds_gets_it_in_parts(chat: Installation) -> None:
    ada, bob = chat.load_users(2, 0)
    conversation = ada["direct_conversation_id"]
    async with ChatClient(ada["token"], chat.socket_urls, [conversation]) as client:
        await client.until(lambda: client.settled)
        for number in range(60):
            client.say(conversation, f"{number} " + "é" * 7_000)
        await client.until(lambda: len(client.acked) == 60, 60)
    socket = await open_socket(chat, bob["token"])

    seqs: list[int] = []
    rounds = 0
    more = True
    while more:
        got = await answer(socket, {"type": "sync", "cursors": {conversation: len(seqs)}}, "synced")
        entry = got["conversations"][0]
        seqs += [message["seq"] for message in entry["messages"]]
        more, rounds = entry["more"], rounds + 1

    assert seqs == list(range(1, 61))
    assert rounds > 1
    assert (await answer(socket, {"type": "heartbeat"}, "heartbeat.ack"))["server_time"]
    await socket.close()


@pytest.mark.parametrize("chat", ["daphne"], indirect=True)  # which gathers what it says
async def test_what_was_said_goes_out_before_the_server_closes_for_another_reason(chat: Installation) -> None:
    (ada,) = chat.load_users(1, 0)
    socket = await open_socket(chat, ada["token"])
    answered = Frame(Opcode.TEXT, b"{").serialize(mask=True)
    too_large = Frame(Opcode.TEXT, b" " * 70_000).serialize(mask=True)

    heard: list[str] = []
    socket.transport.write(answered * 3 + too_large)
    async with asyncio.timeout(10):
        with suppress(ConnectionClosedError):
            async for frame in socket:
                heard.append(json.loads(frame)["type"])

    assert heard == ["nack"] * 3
    assert socket.close_code == 1009

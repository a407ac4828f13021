"""Who is not let in just now is told so before the upgrade, and when to come back."""

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.testing import WebsocketCommunicator

from apps.conversations import admission
from apps.conversations.admission import HANDSHAKES_AT_ONCE, MAX_HANDSHAKES, MAX_LAG_S, MAX_REQUESTS, Door
from apps.presence import node
from chatproject.asgi import application
from tests.conversations.test_consumers import connect
from tests.embedded import Client


@pytest.mark.parametrize(
    ("reason", "state"),
    [("handshakes", {"handshakes": MAX_HANDSHAKES}), ("lag", {"lag_s": MAX_LAG_S * 1.1}), ("full", {"sockets": 7})],
)
def test_too_much_of_one_thing_closes_the_door(reason: str, state: dict[str, Any], settings: Any) -> None:
    settings.CHAT_SOCKETS_PER_NODE = 7
    door = Door()
    assert door.refusal(draining=False) is None
    for name, value in state.items():
        setattr(door, name, value)

    refusal = door.refusal(draining=False)

    assert refusal is not None
    assert (refusal.status, refusal.close_code, refusal.reason) == (503, 1013, reason)
    assert refusal.retry_after_s > 0


async def knock(person: Client, *, can_refuse: bool = True, address: str = "192.0.2.1") -> list[dict[str, Any]]:
    """What a handshake is answered with, by a server that can send statuses, or one that cannot."""
    headers = [(b"authorization", person.headers["Authorization"].encode())]
    communicator = WebsocketCommunicator(application, "/ws/v1/", headers=headers)
    communicator.scope["client"] = (address, 5_000)
    communicator.scope["extensions"] = {"websocket.http.response": {}} if can_refuse else {}
    await communicator.send_input({"type": "websocket.connect"})
    events = [await communicator.receive_output(timeout=5)]
    if events[0]["type"] != "websocket.accept" or not can_refuse:
        events.append(await communicator.receive_output(timeout=5))
    await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
    await communicator.wait()
    return events


async def test_a_crowd_is_let_in_one_after_the_other(ada: Client) -> None:
    door = admission.door()
    async with AsyncExitStack() as others:
        for _ in range(HANDSHAKES_AT_ONCE):
            await others.enter_async_context(door.handshake())
        late = asyncio.create_task(knock(ada))
        answered, _ = await asyncio.wait([late], timeout=0.3)
        assert not answered
        assert door.handshakes == HANDSHAKES_AT_ONCE + 1

    assert (await late)[0]["type"] == "websocket.accept"
    assert door.handshakes == 0


async def test_who_waits_too_long_for_a_turn_is_told_to_come_again(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_WAIT_S", 0.05)
    async with AsyncExitStack() as others:
        for _ in range(HANDSHAKES_AT_ONCE):
            await others.enter_async_context(admission.door().handshake())
        assert (await knock(ada))[0]["status"] == 503


def test_the_server_gives_a_handshake_longer_than_its_turn_may_take() -> None:
    asked = (
        "from chatproject.server import server; made = server(['nowhere']);"
        " print(made.websocket_connect_timeout, made.websocket_handshake_timeout)"
    )
    command = [sys.executable, "-c", asked]  # a process of its own: the server brings its event loop
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert min(map(int, told.split())) > admission.MAX_WAIT_S


async def test_a_full_node_says_503_before_the_upgrade_until_somebody_leaves(ada: Client, settings: Any) -> None:
    settings.CHAT_SOCKETS_PER_NODE = 1
    socket = await connect(ada)

    start, body = await knock(ada)
    assert (start["type"], start["status"], body["body"]) == ("websocket.http.response.start", 503, b"")
    assert int(dict(start["headers"])[b"retry-after"]) > 0

    await socket.close()
    assert (await knock(ada))[0]["type"] == "websocket.accept"


async def test_a_server_that_cannot_say_503_closes_what_it_has_accepted(ada: Client, settings: Any) -> None:
    settings.CHAT_SOCKETS_PER_NODE = 1
    socket = await connect(ada)

    accepted, closed = await knock(ada, can_refuse=False)

    assert (accepted["type"], closed["type"], closed["code"]) == ("websocket.accept", "websocket.close", 1013)
    await socket.close()


async def test_a_node_that_drains_lets_nobody_in(ada: Client) -> None:
    node.current().draining = True

    assert (await knock(ada))[0]["status"] == 503
    assert (await knock(ada, can_refuse=False))[1]["code"] == 1012


async def test_too_many_from_one_address_are_told_to_wait(ada: Client, settings: Any) -> None:
    settings.CHAT_CONNECTS_PER_10S = 2
    kinds = [(await knock(ada))[0] for _ in range(3)]

    assert [kind["type"] for kind in kinds[:2]] == ["websocket.accept"] * 2
    assert kinds[2]["status"] == 429
    assert 0 < int(dict(kinds[2]["headers"])[b"retry-after"]) <= 10
    assert (await knock(ada, address="127.0.0.1"))[0]["type"] == "websocket.accept"


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/api/v1/users/me", 503, b"application/problem+json"),
        ("/accounts/login/", 503, b"text/plain; charset=utf-8"),
        ("/healthz", 200, b"application/json"),
    ],
)
async def test_one_request_too_many_is_answered_at_once(chat: None, path: str, status: int, kind: bytes) -> None:
    admission.door().requests = MAX_REQUESTS
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [(b"host", b"localhost")]}
    asking = ApplicationCommunicator(application, scope)
    await asking.send_input({"type": "http.request", "body": b""})
    start = await asking.receive_output(timeout=5)
    body = await asking.receive_output(timeout=5)
    await asking.wait()
    admission.door().requests = 0

    headers = {name.lower(): value for name, value in start["headers"]}
    assert (start["status"], headers[b"content-type"]) == (status, kind)
    if status == 503:
        assert int(headers[b"retry-after"]) > 0
    if kind == b"application/problem+json":
        assert json.loads(body["body"])["code"] == "unavailable"

"""What ends a session or an account closes its sockets: through the bus, as from another node."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test import AsyncClient

from apps.accounts import services
from chatproject.asgi import application
from tests.embedded import PASSWORD, Client

ORIGIN = settings.CHAT_ORIGINS[0]
DEADLINE_S = 2.0


async def open_socket(**headers: str) -> WebsocketCommunicator:
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    socket = WebsocketCommunicator(application, "/ws/v1/", headers=given)
    connected, _ = await socket.connect()
    assert connected
    assert '"hello"' in await socket.receive_from()
    return socket


async def with_token(person: Client) -> WebsocketCommunicator:
    return await open_socket(authorization=person.headers["Authorization"])


async def close_code(socket: WebsocketCommunicator) -> int:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            event = await socket.receive_output(timeout=DEADLINE_S)
            if event["type"] == "websocket.close":
                return int(event["code"])


async def is_open(socket: WebsocketCommunicator) -> bool:
    await socket.send_to('{"type":"heartbeat"}')
    return "heartbeat.ack" in await socket.receive_from()


async def _end_the_token(person: Client) -> None:
    await person.delete("auth/token")


async def _end_everything(person: Client) -> None:
    await sync_to_async(services.end_all_sessions)(person.user)


async def _set_a_password(person: Client) -> None:
    await sync_to_async(services.set_password)(person.user, "another horse battery")


@pytest.mark.parametrize("end", [_end_the_token, _end_everything, _set_a_password])
async def test_the_sockets_of_what_was_ended_close_and_others_stay_open(
    ada: Client, bob: Client, end: Callable[[Client], Awaitable[None]]
) -> None:
    socket, of_bob = await with_token(ada), await with_token(bob)
    await end(ada)
    assert await close_code(socket) == 4401
    assert await is_open(of_bob)


async def test_logging_out_closes_the_sockets_of_that_browser(ada: Client) -> None:
    browser = AsyncClient()
    await browser.post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    cookie = f"sessionid={browser.cookies['sessionid'].value}"
    socket, other = await open_socket(cookie=cookie, origin=ORIGIN), await with_token(ada)
    await browser.post("/accounts/logout/")
    assert await close_code(socket) == 4401
    assert await is_open(other)


async def test_a_deactivated_person_is_told_that_they_are_out(ada: Client) -> None:
    socket = await with_token(ada)
    await sync_to_async(services.deactivate)(ada.user)
    assert await close_code(socket) == 4403

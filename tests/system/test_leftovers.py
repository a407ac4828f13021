"""What holds itself in a circle waits for the garbage collector, and freeing thousands of them at once stops a node."""

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.system.servers import Installation, Node, eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

CONNECTIONS = 20
FEW = 5  # objects: Django leaves some of each question; one of a connection's circles alone held a dozen
UPGRADE = (
    "GET /ws/v1/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {token}\r\n\r\n"
)


async def collected(node: Node) -> int:
    """What the node had to collect until none of its connections was left."""
    assert node.process is not None

    def says() -> list[tuple[int, int]]:
        found = re.findall(r"^collected (\d+) (\d+)$", node.log.read_text(), re.MULTILINE)
        return [(int(freed), int(alive)) for freed, alive in found]

    before = seen = len(says())
    alive = True
    while alive:
        os.kill(node.process.pid, signal.SIGUSR2)
        seen += 1
        await eventually(lambda wanted=seen: len(says()) == wanted)
        alive = says()[-1][1] > 0
    return sum(freed for freed, _ in says()[before:])


async def stay_a_moment(node: Node, token: str) -> None:
    async with connect(node.socket_url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        await socket.recv()


async def be_refused(node: Node, token: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        await stay_a_moment(node, token[::-1])


async def leave_before_the_answer(node: Node, token: str) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(UPGRADE.format(token=token).encode())
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("come_and_go", [stay_a_moment, be_refused, leave_before_the_answer])
async def test_a_connection_that_is_gone_leaves_nothing_to_the_collector(
    come_and_go: Callable[[Node, str], Awaitable[None]], embedded_stores: dict[str, str], tmp_path: Path
) -> None:
    settings = {"CHAT_SOCKETS_PER_USER": str(CONNECTIONS * 2)}
    with Installation(tmp_path, embedded_stores, nodes=1, server="tests.system.leftovers", **settings) as chat:
        (node,) = chat.nodes
        token = chat.load_users(2, 0)[0]["token"]
        await come_and_go(node, token)
        await stay_a_moment(node, token)
        await collected(node)

        for _ in range(CONNECTIONS):
            await come_and_go(node, token)
        await stay_a_moment(node, token)  # who came before has been seen by now

        assert await collected(node) <= FEW * CONNECTIONS

"""What holds itself in a circle waits for the garbage collector, and freeing thousands of them at once stops a node."""

import os
import re
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.system.servers import Installation, Node, eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

CONNECTIONS = 20
FEW = 5  # objects: Django leaves some of each question; one of a connection's circles alone held a dozen


async def collected(node: Node) -> int:
    """What the node had to collect until none of its connections was left."""
    said = 0

    def says() -> list[tuple[int, int]]:
        found = re.findall(r"^collected (\d+) (\d+)$", node.log.read_text(), re.MULTILINE)
        return [(int(freed), int(alive)) for freed, alive in found]

    freed, alive, before = 0, 1, len(says())
    while alive:
        assert node.process is not None
        os.kill(node.process.pid, signal.SIGUSR2)
        await eventually(lambda seen=before + said: len(says()) > seen)
        now, alive = says()[before + said]
        freed, said = freed + now, said + 1
    return freed


@pytest.mark.parametrize("known", [True, False], ids=["let in", "refused"])
async def test_a_connection_that_is_gone_leaves_nothing_to_the_collector(
    known: bool, embedded_stores: dict[str, str], tmp_path: Path
) -> None:
    with Installation(tmp_path, embedded_stores, nodes=1, server="tests.system.leftovers") as chat:
        (node,) = chat.nodes
        ada = chat.load_users(2, 0)[0]
        headers = {"Authorization": f"Bearer {ada['token'] if known else 'nobody'}"}

        async def come_and_go() -> None:
            try:
                async with connect(node.socket_url, additional_headers=headers) as socket:
                    await socket.recv()
            except InvalidStatus:
                assert not known

        await come_and_go()
        await collected(node)
        for _ in range(CONNECTIONS):
            await come_and_go()

        assert await collected(node) <= FEW * CONNECTIONS

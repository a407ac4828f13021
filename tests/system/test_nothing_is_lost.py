"""The promise, on real processes: whatever was acked is in every member's view, once, in one order."""

import asyncio
import random
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.client import ChatClient
from tests.system.servers import Installation

pytestmark = pytest.mark.system

USERS, GROUP, ROUNDS = 200, 40, 6


@pytest.fixture(params=["embedded-daphne", "full-daphne", "embedded-uvicorn"])
def chat(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    stack, server = request.param.split("-")
    stores = request.getfixturevalue(f"{stack}_stores")
    with Installation(tmp_path, stores, nodes=4, server=server, CHAT_AUDIT_INTERVAL="1") as installation:
        yield installation


@pytest.mark.timeout(240)
async def test_a_node_is_killed_while_200_people_chat_and_nothing_acked_is_lost(
    chat: Installation, tmp_path: Path
) -> None:
    users = chat.load_users(USERS, GROUP)
    clients = [ChatClient(user["token"], chat.socket_urls, _conversations(user)) for user in users]
    async with AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
        await asyncio.gather(*(client.until(lambda c=client: c.settled, 60) for client in clients))
        assert len({client.node for client in clients}) == 4

        said = 0
        for round_number in range(ROUNDS):
            for client in clients:
                client.say(next(iter(client.views)), f"direct {round_number}")
            for client in random.sample(clients[:GROUP], 5):
                client.say(list(client.views)[-1], f"group {round_number}")
            said += len(clients) + 5
            if round_number == ROUNDS // 2:
                chat.nodes[0].kill()
            await asyncio.sleep(0.3)  # the pace of people; nothing is waited for
        await asyncio.gather(*(client.until(lambda c=client: c.settled, 90) for client in clients))
        for client in clients:
            await client.catch_up()
        heads = _heads(clients)
        await asyncio.gather(*(client.until(lambda c=client: _is_at(c, heads), 60) for client in clients))

    assert sum(len(client.acked) for client in clients) == said
    _check_everything_is_there(clients)
    assert ": nothing found" in chat.manage("audit_history")
    assert not [log for log in (tmp_path / "log").iterdir() if "the audit found" in log.read_text()]


def _conversations(user: dict[str, Any]) -> list[str]:
    return [each for each in (user["direct_conversation_id"], user["group_id"]) if each]


def _heads(clients: list[ChatClient]) -> dict[str, int]:
    heads: dict[str, int] = {}
    for client in clients:
        for conversation, seq in client.acked.values():
            heads[conversation] = max(heads.get(conversation, 0), seq)
    return heads


def _is_at(client: ChatClient, heads: dict[str, int]) -> bool:
    return all(view.cursor >= heads.get(conversation, 0) for conversation, view in client.views.items())


def _check_everything_is_there(clients: list[ChatClient]) -> None:
    orders: dict[str, list[str]] = {}
    for client in clients:
        for conversation, view in client.views.items():
            order = [message["client_msg_id"] for message in view.messages]
            assert [message["seq"] for message in view.messages] == list(range(1, len(order) + 1))
            assert len(set(order)) == len(order), "a message is in the history twice"
            assert orders.setdefault(conversation, order) == order, "two members see another order"
    for client in clients:
        for client_msg_id, (conversation, seq) in client.acked.items():
            assert orders[conversation][seq - 1] == client_msg_id, "an acked message is not where it was promised"


@pytest.mark.timeout(120)
async def test_a_drained_node_sends_its_people_to_the_others(chat: Installation) -> None:
    users = chat.load_users(20, 0)
    clients = [ChatClient(user["token"], chat.socket_urls, _conversations(user)) for user in users]
    async with AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
        await asyncio.gather(*(client.until(lambda c=client: c.settled) for client in clients))
        drained = next(node for node in chat.nodes if node.name == clients[0].node)
        there = [client for client in clients if client.node == drained.name]

        # uvicorn shuts down in order, and then ends by the signal it was sent
        assert await asyncio.to_thread(drained.terminate) in (0, -signal.SIGTERM)
        for client in clients:
            client.say(next(iter(client.views)), "still here")
        await asyncio.gather(*(client.until(lambda c=client: c.settled, 60) for client in clients))

    assert all(client.close_codes[:1] == [1012] for client in there)
    if chat.server == "daphne":  # uvicorn closes its sockets before it says that it ends
        assert all("reconnect" in [frame["type"] for frame in client.frames] for client in there)
    assert all(client.node != drained.name for client in clients)
    assert all(not client.refused or client.refused[-1]["retry"] for client in clients)

"""A member who is nowhere: the push is with a worker, or waits in the outbox until there is a broker."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.client import ChatClient
from tests.system.servers import Installation, eventually, free_port, worker

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

ACCEPTED = 'chat_push_answers_total{outcome="accepted",provider="console"} '


def pushes(log: Path) -> list[dict[str, Any]]:
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")] if log.exists() else []
    return [event for event in map(json.loads, lines) if event.get("event") == "console push"]


def accepted(port: int) -> list[str]:
    """What the worker that tells its numbers there has counted."""
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    return [line.removeprefix(ACCEPTED) for line in lines if line.startswith(ACCEPTED)]


def outbox(data: Path) -> int:
    with closing(sqlite3.connect(data / "chat.sqlite3")) as database:
        return int(database.execute("SELECT count(*) FROM push_outboxtask").fetchone()[0])


async def say_to_someone_who_is_away(chat: Installation) -> dict[str, Any]:
    """Returns the user who is away, and has a device."""
    here, away = chat.load_users(2, 0)
    async with httpx.AsyncClient(base_url=chat.nodes[0].url) as http:
        device = {"platform": "fcm", "token": "a phone", "name": "phone"}
        headers = {"Authorization": f"Bearer {away['token']}"}
        assert (await http.post("/api/v1/users/me/devices", json=device, headers=headers)).status_code == 201
    conversation = here["direct_conversation_id"]
    async with ChatClient(here["token"], chat.socket_urls, [conversation]) as client:
        await client.until(lambda: client.settled)
        client.say(conversation, "are you there?")
        await client.until(lambda: client.settled and bool(client.acked))
    return away


@pytest.mark.parametrize("stack", ["embedded", "full"])
async def test_the_worker_pushes_to_who_is_away(request: pytest.FixtureRequest, stack: str, tmp_path: Path) -> None:
    stores = request.getfixturevalue(f"{stack}_stores")
    log, port = tmp_path / "worker.log", free_port()
    with Installation(tmp_path, stores, nodes=1) as chat, worker(chat, log, "--beat", METRICS_PORT=str(port)):
        away = await say_to_someone_who_is_away(chat)
        await eventually(lambda: pushes(log), 60)
        counted = await eventually(lambda: accepted(port), 30)

    assert counted == ["1.0"], log.read_text()
    assert [event["conversation_id"] for event in pushes(log)] == [away["direct_conversation_id"]]
    assert "are you there?" not in log.read_text()


@pytest.mark.parametrize("clock", [["--beat"], []], ids=["by the clock", "as a worker starts"])
async def test_what_was_said_while_the_broker_was_away_is_pushed_when_it_is_back(
    embedded_stores: dict[str, str], tmp_path: Path, clock: list[str]
) -> None:
    log = tmp_path / "worker.log"
    away_broker = {"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"}
    with Installation(tmp_path, embedded_stores | away_broker, nodes=1) as chat:
        away = await say_to_someone_who_is_away(chat)
        assert not pushes(log)
        assert outbox(tmp_path) == 1
        with worker(chat, log, *clock, **embedded_stores):
            await eventually(lambda: pushes(log), 60)
        assert outbox(tmp_path) == 0

    assert [event["conversation_id"] for event in pushes(log)] == [away["direct_conversation_id"]]

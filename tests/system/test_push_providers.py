"""
FCM and APNs are told of what people missed, with a worker killed at each step of a push.

Nobody waits for the minute after which a push is taken for lost: the test lets it pass in the ledger.
"""

import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.consistency.checker import check
from tests.consistency.history import Line, Recorder
from tests.push_servers.apns import ApnsServer
from tests.push_servers.fcm import FcmServer
from tests.system.client import ChatClient
from tests.system.servers import Installation, eventually, worker

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

STEPS = ("pushing", "pushed", "push-settled")


class Phones:
    """What arrived at the servers, by token, and who has which."""

    def __init__(self, fcm: FcmServer, apns: ApnsServer) -> None:
        self._fcm, self._apns = fcm, apns
        self.owner_of: dict[str, dict[str, Any]] = {}
        self.told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    async def register(self, chat: Installation, platform: str, user: dict[str, Any]) -> None:
        token = f"{len(self.owner_of) + 1:064x}"
        headers = {"Authorization": f"Bearer {user['token']}"}
        async with httpx.AsyncClient(base_url=chat.nodes[0].url, headers=headers) as http:
            device = {"platform": platform, "token": token, "name": "phone"}
            assert (await http.post("/api/v1/users/me/devices", json=device)).status_code == 201
        self.owner_of[token] = user

    def look(self) -> None:
        while not self._fcm.arrived.empty():
            arrived = self._fcm.arrived.get()
            self.told[arrived.token].append(arrived.message["data"])
        while not self._apns.arrived.empty():
            notification = self._apns.arrived.get()
            self.told[notification.token].append(notification.payload["chat"])

    def know_of(self, seq: int) -> bool:
        self.look()
        return all(any(int(push["seq"]) >= seq for push in self.told[token]) for token in self.owner_of)


async def a_minute_passes(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as database:
        await database.execute("UPDATE push_pushrecord SET due_at = now() WHERE state IN ('queued', 'sending')")


def open_pushes(database_url: str) -> int:
    with psycopg.connect(database_url) as database:
        query = "SELECT count(*) FROM push_pushrecord WHERE state IN ('waiting', 'queued', 'sending')"
        return int(database.execute(query).fetchone()[0])


async def say(chat: Installation, recorder: Recorder, phones: Phones, text: str) -> None:
    """To each of those who are away, from the one they are in a direct conversation with."""
    for away in phones.owner_of.values():
        here, conversation = away["other"], away["direct_conversation_id"]
        async with ChatClient(here["token"], chat.socket_urls, [conversation]) as client:
            await client.until(lambda client=client: client.settled)
            name = client.say(conversation, text)
            recorder.invoke(here["username"], conversation, name, here["username"])
            recorder.absent("test", away["username"], conversation, name)
            await client.until(lambda client=client: client.settled and bool(client.acked))
            ((_, (_, seq)),) = client.acked.items()
            recorder.ok(here["username"], conversation, name, here["username"], seq)


async def test_everyone_who_is_away_is_told_although_a_worker_dies_at_each_step(
    full_stores: dict[str, str], tmp_path: Path
) -> None:
    lines: list[Line] = []
    log = tmp_path / "worker.log"
    recorder = Recorder(lines.append)
    with FcmServer(tmp_path) as fcm, ApnsServer(tmp_path) as apns:
        phones = Phones(fcm, apns)
        with Installation(tmp_path, full_stores, nodes=1, **fcm.settings, **apns.settings) as chat:
            users = chat.load_users(4, 0)
            for platform, here, away in (("fcm", *users[:2]), ("apns", *users[2:])):
                await phones.register(chat, platform, away | {"other": here})
            for number, step in enumerate(STEPS, 1):
                await say(chat, recorder, phones, f"are you there? {number}")
                with worker(chat, log, "--beat", CHAT_FAILPOINT=step) as process:
                    await eventually(lambda process=process: process.poll() is not None, 60)
                assert process.returncode == -signal.SIGKILL, f"the worker did not die at {step!r}"
                await a_minute_passes(full_stores["DATABASE_URL"])
            with worker(chat, log, "--beat"):
                await eventually(lambda: phones.know_of(len(STEPS)), 60)
                # Whoever uses these stores next would send them.
                await eventually(lambda: not open_pushes(full_stores["DATABASE_URL"]), 60)

    for token, pushes in phones.told.items():
        for push in pushes:
            recorder.push("test", phones.owner_of[token]["username"], push["conversation_id"], int(push["seq"]))
    assert check(lines) == []

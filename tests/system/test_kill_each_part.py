"""`make run`, two people chatting, and `kill -9` of each part in turn: the chat goes on, and nothing acked is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.client import ChatClient
from tests.system.servers import BASE_DIR, eventually, free_port

pytestmark = pytest.mark.system

PARTS = ["node-1", "node-2", "worker", "valkey"]


class Run:
    """The supervisor, as `make run` starts it."""

    def __init__(self, data: Path) -> None:
        self.data, self.port = data, free_port()
        settings = {"DATA": str(data), "PORT": str(self.port), "NODES": "2", "CHAT_SENDS_PER_10S": "0"}
        self.environment = os.environ | settings | {"DJANGO_SETTINGS_MODULE": "chatproject.settings.base"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatproject.supervisor"],
            cwd=BASE_DIR, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.printed = ""
        while "http://" not in self.printed:
            line = self.process.stdout.readline()
            assert line, self.printed
            self.printed += line

    def pid_of(self, part: str) -> int | None:
        file = self.data / "run" / f"{part}.pid"
        try:
            return int(file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def load_users(self, number: int) -> list[dict[str, Any]]:
        out = subprocess.check_output(
            [sys.executable, "manage.py", "loadtest_users", str(number)], cwd=BASE_DIR, env=self.environment, text=True
        )
        return [json.loads(line) for line in out.splitlines()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "data")
    yield run
    if run.process.poll() is None:
        run.stop()


@pytest.mark.timeout(180)
async def test_the_chat_goes_on_when_any_part_is_killed(running: Run) -> None:
    ada, bob = running.load_users(2)
    conversation = ada["direct_conversation_id"]
    url = f"ws://127.0.0.1:{running.port}/ws/v1/"
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(ChatClient(user["token"], [url], [conversation])) for user in (ada, bob)
        ]
        await asyncio.gather(*(client.until(lambda c=client: c.settled) for client in clients))
        said: list[str] = []
        for part in PARTS:
            pid = running.pid_of(part)
            assert pid is not None
            said += [client.say(conversation, f"before {part}") for client in clients]
            os.kill(pid, signal.SIGKILL)
            said += [client.say(conversation, f"after {part}") for client in clients]
            await asyncio.gather(*(client.until(lambda c=client: c.settled, 60) for client in clients))
            await eventually(lambda part=part, pid=pid: running.pid_of(part) not in (None, pid))
        for client in clients:
            await client.catch_up()
            await client.until(lambda c=client: c.views[conversation].cursor == len(said), 30)

    orders = [[message["client_msg_id"] for message in client.views[conversation].messages] for client in clients]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(said)
    assert running.stop() == 0
    assert not any(running.pid_of(part) for part in PARTS)

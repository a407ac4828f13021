"""
What can be measured: our server on either stack, from any checkout, and others that people would take instead.

Each is started anew on the core for servers, with its databases, in a directory of its own, and stopped again; it says
which of its processes are of which kind, so that their CPU can be told apart.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from chatproject.processes import free_ports
from tests.load.chat import ChatClient
from tests.load.crowd import Conversation, Crowd
from tests.load.machine import SERVER_CORE, on_core
from tests.load.tally import Tally

BASE_DIR = Path(__file__).resolve().parent.parent.parent
START_S = 120
STOP_S = 40


class CannotStart(Exception):
    """What is to be measured can't be had here; says why."""


@dataclass(frozen=True)
class Checkout:
    """The code of a commit, and the Python that runs it."""

    directory: Path = BASE_DIR
    python: str = sys.executable


class Target(ABC):
    """Between `start` and `stop`, something that listens on `port`."""

    name: str
    can: frozenset[str]  # workloads by name
    has_nodes = False  # whether it can be started with several
    warm_up_s = 5.0

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self.port = 0
        self.nodes = 1

    def start(self, nodes: int) -> None:
        """Raises CannotStart."""
        self._directory = tempfile.TemporaryDirectory(prefix=f"chat-load-{self.name}-", ignore_cleanup_errors=True)
        self.port, self.nodes = free_ports(1)[0], nodes
        try:
            with on_core(SERVER_CORE):
                self.run()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Does nothing unless it was started: what is deleted is the directory that `start` made, and no other."""
        if self._directory is not None:
            self.end()
            self._directory.cleanup()
            self._directory = None

    @property
    def data(self) -> Path:
        """Raises LookupError unless it was started."""
        if self._directory is None:
            raise LookupError(f"{self.name} has no directory before it is started")
        return Path(self._directory.name)

    @abstractmethod
    def run(self) -> None: ...

    @abstractmethod
    def end(self) -> None: ...

    @abstractmethod
    def processes(self) -> dict[str, list[int]]:
        """Pids by kind; what they start belongs to them."""

    @abstractmethod
    def servers(self) -> list[int]:
        """Of these, the pids of those that hold the connections."""

    @abstractmethod
    async def gather(self, people: int, groups: Sequence[Sequence[int]] = ()) -> Crowd[Any]:
        """People in pairs, and in these groups of them, none of them connected."""


def pids_in(directory: Path) -> list[int]:
    return [int(file.read_text()) for file in sorted(directory.glob("*.pid"))]


class Chat(Target):
    """Our own server as `make run` starts it: `stack` is "embedded" or "full"."""

    can = frozenset({"direct", "group", "idle", "history", "storm", "hot", "mixed"})
    has_nodes = True

    def __init__(self, stack: str, checkout: Checkout | None = None, name: str = "") -> None:
        super().__init__()
        self.name, self._stack, self._checkout = name or stack, stack, checkout or Checkout()
        self.warm_up_s = 60.0 if stack == "full" else self.warm_up_s  # so long Java compiles what it runs often
        self._supervisor: subprocess.Popen[str] | None = None

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "chatproject.settings.base",
            "DATA": str(self.data),
            "PORT": str(self.port),
            "NODES": str(self.nodes),
            "STACK": self._stack,
            "CHAT_SENDS_PER_10S": "0",
            "CHAT_CONNECTS_PER_10S": "0",
        }

    def run(self) -> None:
        if self._stack == "full":
            self.python("-m", "chatproject.stack", "start")
        with (self.data / "supervisor.log").open("w") as log:
            self._supervisor = subprocess.Popen(
                [self._checkout.python, "-m", "chatproject.supervisor"],
                cwd=self._checkout.directory, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._supervisor.stdout is not None
        for line in self._supervisor.stdout:
            if "not ready" in line:
                break
            if "Stop with" in line:
                return
        raise CannotStart(f"the server did not get ready: {(self.data / 'supervisor.log').read_text()[-500:]}")

    def end(self) -> None:
        if self._supervisor is not None:
            self._supervisor.send_signal(signal.SIGTERM)
            self._supervisor.communicate(timeout=STOP_S)
            self._supervisor = None
        if self._stack == "full":
            self.python("-m", "chatproject.stack", "stop")

    def processes(self) -> dict[str, list[int]]:
        kinds: dict[str, list[int]] = {}
        for file in (self.data / "run").glob("*.pid"):
            kinds.setdefault(file.stem.partition("-")[0], []).append(int(file.read_text()))
        for directory in (self.data / "services").glob("*/"):
            kinds[directory.name] = pids_in(directory)
        return kinds

    def servers(self) -> list[int]:
        return self.processes()["node"]

    async def gather(self, people: int, groups: Sequence[Sequence[int]] = ()) -> Crowd[ChatClient]:
        """The first group may have any size if it begins with the first of them; the others have up to 101 members."""
        large = len(groups[0]) if groups and groups[0][0] == 0 else 0
        listing = self.python("manage.py", "loadtest_users", str(people), "--group-size", str(large))
        users = [json.loads(line) for line in listing.splitlines() if line.startswith("{")]
        tally = Tally()
        clients = [ChatClient(user["username"], user["token"], self.port, tally) for user in users]
        pairs = [
            Conversation(users[one]["direct_conversation_id"], (one, one + 1), 2) for one in range(0, people - 1, 2)
        ]
        crowd = Crowd(tally, clients, pairs)
        if large:
            crowd.groups.append(Conversation(users[0]["group_id"], groups[0], large))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}/api/v1/", timeout=30) as rest:
            for members in groups[1 if large else 0 :]:
                group_id = await self._make_group(rest, [users[index] for index in members])
                crowd.groups.append(Conversation(group_id, members, len(members)))
        for conversation in crowd.conversations():
            for index in conversation.members:
                clients[index].cursors[conversation.id] = 0
        return crowd

    async def _make_group(self, rest: httpx.AsyncClient, members: list[dict[str, Any]]) -> str:
        owner, *others = members
        body = {"kind": "group", "title": "Load", "members": [user["username"] for user in others]}
        answer = await rest.post("conversations", json=body, headers={"Authorization": f"Bearer {owner['token']}"})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def python(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._checkout.python, *arguments],
            cwd=self._checkout.directory, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise CannotStart(f"{' '.join(arguments)}: {done.stderr.strip()[-500:]}")
        return done.stdout

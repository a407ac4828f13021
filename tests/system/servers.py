"""Real chat nodes and workers as processes of their own, for tests that kill them."""

import asyncio
import atexit
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from chatproject.processes import free_ports

BASE_DIR = Path(__file__).resolve().parent.parent.parent
READY_S = 90  # on a busy machine; one that ends is noticed at once


def free_port() -> int:
    return free_ports(1)[0]


class Node:
    def __init__(self, name: str, environment: dict[str, str], log: Path, server: str) -> None:
        self.name, self.port, self.log = name, free_port(), log
        self._environment = {**environment, "NODE_ID": name, "PORT": str(self.port)}
        if server == "uvicorn":
            self._command = [sys.executable, "-m", "uvicorn", "chatproject.asgi:application", "--port", str(self.port)]
            self._command += ["--ws-max-size", "65536", "--ws-per-message-deflate", "false", "--log-level", "warning"]
            self._command.append("--no-proxy-headers")
        else:
            module = "chatproject.server" if server == "daphne" else server
            self._command = [sys.executable, "-m", module, "--port", str(self.port)]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/v1/"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=BASE_DIR, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, grace_s: float = 20) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(grace_s)

    @property
    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:  # noqa: S310  (our own node)
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not self.is_ready:
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not become ready:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)


@cache
def _prepared() -> Path:
    """What `prepare` makes of an empty DATA, to be copied: all that start with it begin alike."""
    made = tempfile.mkdtemp(prefix="chat-prepared-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    Installation(Path(made), {}, nodes=0).manage("prepare")
    return Path(made)


class Installation:
    """Several nodes on one set of stores, which the caller has running. `server`: daphne, uvicorn or a module."""

    def __init__(
        self, data: Path, stores: dict[str, str], *, nodes: int, server: str = "daphne", **settings: str
    ) -> None:
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "chatproject.settings.base",
            "DATA": str(data),
            "SECRET_KEY": secrets.token_urlsafe(50),
            "CHAT_SENDS_PER_10S": "0",
            "CHAT_CONNECTS_PER_10S": "0",
            **stores,
            **settings,
        }
        self.server = server
        self._data = data
        self._keeps_all_in_data = not {"DATABASE_URL", "CASSANDRA_URL"} & self.environment.keys()
        (data / "log").mkdir(parents=True, exist_ok=True)
        self.nodes = [
            Node(f"node-{number}", self.environment, data / "log" / f"node-{number}.log", server)
            for number in range(1, nodes + 1)
        ]
        origins = ",".join(node.url for node in self.nodes)
        for node in self.nodes:
            node._environment["CHAT_ORIGINS"] = origins

    def __enter__(self) -> Self:
        if self._keeps_all_in_data and not (self._data / "chat.sqlite3").exists():
            shutil.copytree(_prepared(), self._data, dirs_exist_ok=True)
        else:
            self.manage("prepare")
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.terminate()
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                try:
                    node.process.wait(20)
                except subprocess.TimeoutExpired:
                    node.kill()

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def load_users(self, number: int, group_size: int) -> list[dict[str, Any]]:
        lines = self.manage("loadtest_users", str(number), "--group-size", str(group_size)).splitlines()
        return [json.loads(line) for line in lines]

    @property
    def socket_urls(self) -> list[str]:
        return [node.socket_url for node in self.nodes]


@contextmanager
def worker(chat: Installation, log: Path, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of this installation; with `--beat` among its arguments it has the clock."""
    command = [sys.executable, "-m", "celery", "-A", "chatproject", "worker", "--pool", "threads", "--concurrency", "4"]
    command += ["--schedule", str(log.parent / "beat"), "--loglevel", "INFO", *arguments]
    with log.open("ab") as lines:
        process = subprocess.Popen(
            command,
            cwd=BASE_DIR,
            env=chat.environment | settings,
            stdout=lines,
            stderr=lines,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its clock outlives a worker that was killed
        process.wait()


async def eventually(condition: Any, seconds: float = 30) -> Any:
    """Wait until `condition()` holds, for what no frame tells; what it returned then."""
    deadline = time.monotonic() + seconds
    while not (held := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain")
        await asyncio.sleep(0.05)
    return held

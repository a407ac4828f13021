"""Faults that people bring: crowds, floods, readers who do not read, outboxes from long ago, and quarrels."""

import asyncio
import json
import random
import socket
import time
from base64 import b64encode
from collections import Counter
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.chaos.people import Person
from tests.chaos.rows import Row, adding_to
from tests.chaos.scene import Failed, Scene
from tests.system.servers import Node, eventually

SOCKETS_EACH = 20  # one person may have so many
MAX_GROWTH_MB = 150  # of all three nodes together
DAY_S = 86_400

ROWS: list[Row] = []
row = adding_to(ROWS)


@row("clients", "a crowd reconnects at once")
async def crowd_reconnects(scene: Scene) -> None:
    people = await scene.world.cast(scene.size(200, 1_000) // SOCKETS_EACH)
    before = sum(scene.world.memory_mb().values())
    async with AsyncExitStack() as sockets:
        guests = [Guest(scene, user["token"]) for user in people for _ in range(SOCKETS_EACH)]
        for guest in guests:
            await sockets.enter_async_context(guest)
        await _all_in(guests)
        scene.note(f"{len(guests)} more are here")
        for guest in guests:
            guest.cut()
        cut_at = time.monotonic()
        await _all_in(guests)
        scene.figure(f"{len(guests)} back after", f"{time.monotonic() - cut_at:.1f} s")
        _check_memory(scene, before)
    scene.note("they are gone")


class Guest:
    """A socket that only listens, and reconnects at once, as no client should."""

    def __init__(self, scene: Scene, token: str) -> None:
        self.is_in = False
        self._scene, self._token = scene, token
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._stay())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def cut(self) -> None:
        if self._socket is not None:
            self.is_in = False
            self._socket.transport.abort()

    async def _stay(self) -> None:
        while True:
            with suppress(OSError, InvalidHandshake, ConnectionClosed, TimeoutError):
                node = self._scene.random.choice(self._scene.door.up)
                headers = {"Authorization": f"Bearer {self._token}"}
                async with connect(node.socket_url, additional_headers=headers, open_timeout=60) as self._socket:
                    async for _ in self._socket:
                        self.is_in = True
            await asyncio.sleep(random.uniform(0, 0.5))


async def _all_in(guests: list[Guest]) -> None:
    try:
        await eventually(lambda: all(guest.is_in for guest in guests), 90)
    except AssertionError:
        raise Failed(f"{sum(not guest.is_in for guest in guests)} of {len(guests)} were not let in") from None


def _check_memory(scene: Scene, before_mb: float) -> None:
    growth = sum(scene.world.memory_mb().values()) - before_mb
    scene.figure("memory of the nodes", f"{growth:+.0f} MB")
    if scene.alone and growth > MAX_GROWTH_MB:
        raise Failed(f"the nodes took {growth:.0f} MB more")


@row("clients", "some never read")
async def never_read(scene: Scene) -> None:
    before = sum(scene.world.memory_mb().values())
    writers = [person for person in scene.people if scene.group in person.views]
    node = scene.random.choice(scene.door.up)
    deaf = [await _deaf_socket(node, writers[0].token) for _ in range(8)]
    scene.note(f"{len(deaf)} sockets of {node.name} do not read")
    try:
        long = [f"{number} ".ljust(7_900, "x") for number in range(scene.size(12, 60))]
        said = {person.name: [person.say(scene.group, text) for text in long] for person in writers}
        for person in writers:
            await person.until(lambda person=person: not person.waiting & set(said[person.name]), 90)
        _check_memory(scene, before)
    finally:
        for each in deaf:
            each.close()


async def _deaf_socket(node: Node, token: str) -> socket.socket:
    """A WebSocket with a small window, of which nothing is read after the upgrade."""
    loop = asyncio.get_running_loop()
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    end.setblocking(False)
    where = urlsplit(node.url)
    await loop.sock_connect(end, (where.hostname, where.port))
    key = b64encode(random.randbytes(16)).decode()
    lines = ["GET /ws/v1/ HTTP/1.1", f"Host: {where.netloc}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Authorization: Bearer {token}", "", ""]
    await loop.sock_sendall(end, "\r\n".join(lines).encode())
    answer = await asyncio.wait_for(loop.sock_recv(end, 16), 30)
    if b" 101 " not in answer:
        raise Failed(f"a socket that will not read was not let in: {answer!r}")
    return end


@row("clients", "one floods")
async def one_floods(scene: Scene) -> None:
    flooder, _ = await scene.world.cast(2)
    seen: Counter[str] = Counter()
    flooding = asyncio.create_task(_flood(scene, flooder, seen))
    try:
        await scene.goes_on(30)
        await scene.hold(3, 10)
    finally:
        flooding.cancel()
        await asyncio.wait([flooding])
    scene.figure("of the flood", ", ".join(f"{number} {what}" for what, number in sorted(seen.items())))
    if not seen.keys() & {"rate_limited", "closed 4429"}:
        raise Failed(f"a flood was let through: {dict(seen)}")


async def _flood(scene: Scene, user: dict[str, Any], seen: Counter[str]) -> None:
    headers = {"Authorization": f"Bearer {user['token']}"}
    while True:
        with suppress(OSError, InvalidHandshake, TimeoutError):
            node = scene.random.choice(scene.door.up)
            async with connect(node.socket_url, additional_headers=headers, open_timeout=10) as connection:
                with suppress(ConnectionClosed):
                    await asyncio.gather(_send_endlessly(connection, user, seen), _count_answers(connection, seen))
                seen[f"closed {connection.close_code}"] += 1
        await asyncio.sleep(0.2)


async def _send_endlessly(connection: ClientConnection, user: dict[str, Any], seen: Counter[str]) -> None:
    while True:
        for _ in range(20):
            frame = {"type": "message.send", "client_msg_id": str(uuid4()), "content": "more"}
            await connection.send(json.dumps({**frame, "conversation_id": user["direct_conversation_id"]}))
            seen["sent"] += 1
        await asyncio.sleep(0.005)


async def _count_answers(connection: ClientConnection, seen: Counter[str]) -> None:
    async for raw in connection:
        frame = json.loads(raw)
        if frame["type"] in ("ack", "nack"):
            seen[frame.get("code", "acked")] += 1


@row("clients", "an outbox comes back that nobody remembers, from a clock a day off")
async def old_outbox(scene: Scene) -> None:
    person = scene.random.choice(scene.people[:2])
    (conversation,) = (each for each in person.views if each != scene.group)
    person.turns_deaf = True
    person.say(conversation, "is this on?")
    other = next(each for each in scene.people if each is not person and conversation in each.views)
    await other.until(lambda: bool(person.waiting & _ids(other, conversation)), 30)
    await person.leave()
    scene.note(f"{person.name} is gone, and hears no acks")
    with scene.world.redis as redis:
        redis.flushdb()
    node = scene.pick()[0]
    await scene.world.kill_node(node)
    await scene.world.start_node(node)
    await scene.hold(1, 10)
    person.turns_deaf = False
    person.clock_off_s = scene.random.choice([-DAY_S, DAY_S])
    waiting = person.waiting
    await person.come_back()
    scene.note(f"{person.name} is back with {len(waiting)} messages")
    await person.until(lambda: not waiting & person.waiting, 60)
    _check_times(person, conversation)


def _ids(person: Person, conversation: str) -> set[str]:
    return {message["client_msg_id"] for message in person.views[conversation].messages}


def _check_times(person: Person, conversation: str) -> None:
    for message in person.views[conversation].messages:
        if abs(datetime.fromisoformat(message["sent_at"]) - datetime.now(UTC)) > timedelta(minutes=15):
            raise Failed(f"a message is of {message['sent_at']}, by the clock of its client")


@row("members", "all nodes are asked at once for the same direct conversation")
async def same_direct_conversation(scene: Scene) -> None:
    users = await scene.world.cast(scene.size(8, 40))
    for one, other in zip(users[::4] + users[1::4], users[2::4] + users[3::4], strict=True):
        asked = [(node, *pair) for node in scene.door.up for pair in ((one, other), (other, one))]
        answers = await asyncio.gather(*(_open_direct(scene, *each) for each in asked))
        ids, created = {each for each, _ in answers}, sum(status == 201 for _, status in answers)
        if len(ids) != 1 or created != 1:
            raise Failed(f"{one['username']} and {other['username']} have {len(ids)}, {created} of them made now")
    scene.figure("direct conversations", str(len(users) // 2))


async def _open_direct(
    scene: Scene, node: Node, one: dict[str, Any], other: dict[str, Any], tries: int = 10
) -> tuple[str, int]:
    async with scene.client(node, one) as http:
        for _ in range(tries):
            answer = await http.post("conversations", json={"kind": "direct", "members": [other["username"]]})
            if answer.status_code != 503:
                return answer.raise_for_status().json()["id"], answer.status_code
            await asyncio.sleep(float(answer.headers["Retry-After"]) * random.random())
    raise Failed(f"no direct conversation after {tries} tries")


@row("members", "a member is removed while they send")
async def member_removed(scene: Scene) -> None:
    owner, member = scene.people[0], scene.people[5]
    scene.may_be_refused.add(member.name)
    scene.expect_until(member, scene.group, member.views[scene.group].cursor)
    for number in range(scene.size(20, 60)):
        member.say(scene.group, f"quickly {number}")
    async with scene.client(scene.random.choice(scene.door.up), {"token": owner.token}) as http:
        removed = await http.delete(f"conversations/{scene.group}/members/{member.name}")
        removed.raise_for_status()
    scene.note(f"{member.name} is removed")
    await member.until(lambda: bool(member.refused) and not member.views[scene.group].outbox, 60)
    del member.views[scene.group]
    after = [message for message in await scene.history(scene.group, owner) if message["kind"] == "system"][-1]
    late = [
        message["seq"]
        for message in await scene.history(scene.group, owner)
        if message["seq"] > after["seq"] and message["sender"]["username"] == member.name
    ]
    if "removed" not in after["content"] or late:
        raise Failed(f"{member.name} was removed at {after['seq']} ({after['content']}), and still said {late}")

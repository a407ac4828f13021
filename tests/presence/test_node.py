"""Two nodes on one real Redis-protocol store, and what happens when that store forgets, or cuts them off."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import redis

from apps.accounts.models import User
from apps.presence.bus import ChannelLayer
from apps.presence.node import RESYNC_FRAME, BusAway, Node
from apps.presence.registry import now_ms
from tests.presence.test_hub import FakeSocket
from tests.system.servers import eventually


@pytest.fixture
def store(embedded_valkey: str) -> redis.Redis:
    client = redis.Redis.from_url(embedded_valkey)
    client.flushall()
    return client


@pytest.fixture
async def nodes(store: redis.Redis, embedded_valkey: str, transactional_db: None) -> AsyncIterator[tuple[Node, Node]]:
    layer = ChannelLayer(embedded_valkey)
    one, other = Node("node-1", layer), Node("node-2", layer)
    for node in (one, other):
        await node.start()
    await eventually(lambda: one.exchange.hears_itself and other.exchange.hears_itself)
    yield one, other
    for node in (one, other):
        await node.stop()


async def connect(node: Node, user_id: UUID | None = None) -> FakeSocket:
    socket = FakeSocket(user_id or uuid4())
    socket.last_heard = time.monotonic()
    await node.add(socket)
    return socket


def user_of(socket: FakeSocket) -> UUID:
    return socket.identity.person.id


async def test_a_frame_reaches_users_on_every_node_and_says_who_is_nowhere(nodes: tuple[Node, Node]) -> None:
    here, there, nobody = await connect(nodes[0]), await connect(nodes[1]), uuid4()

    nowhere = await nodes[0].deliver([user_of(here), user_of(there), nobody], b"frame")

    assert nowhere == {nobody}
    await eventually(lambda: there.frames == [b"frame"])
    assert here.frames == [b"frame"]


async def attentive(node: Node, user_id: UUID) -> bool:
    return user_id in await node.registry.attentive([user_id])


async def test_who_uses_none_of_their_sockets_is_away_for_those_who_push(nodes: tuple[Node, Node]) -> None:
    ada = uuid4()
    laptop, phone = await connect(nodes[0], ada), await connect(nodes[1], ada)
    unreached: list[set[UUID]] = []

    async def note(_: bytes, user_ids: set[UUID]) -> None:
        unreached.append(user_ids)

    nodes[1].on_unreached(note)
    assert await attentive(nodes[0], ada)
    assert not await attentive(nodes[0], uuid4())

    laptop.last_active -= 121
    await nodes[0].attendance.tell_away()
    assert await nodes[0].deliver([ada], b"frame") == set()
    assert await attentive(nodes[0], ada)

    phone.last_active -= 121
    await nodes[1].attendance.tell_away()
    assert not await attentive(nodes[0], ada)
    await nodes[0].deliver([ada], b"frame")
    await eventually(lambda: unreached == [{ada}])
    await nodes[1].remove(phone)
    assert await nodes[0].deliver([ada], b"frame") == {ada}

    nodes[0].used(laptop)
    await asyncio.sleep(0)  # commands to Redis go out in the order in which they are made
    assert await attentive(nodes[0], ada)
    assert await nodes[0].deliver([ada], b"frame") == set()


async def test_a_user_on_two_nodes_hears_on_both(nodes: tuple[Node, Node]) -> None:
    ada = uuid4()
    laptop, phone = await connect(nodes[0], ada), await connect(nodes[1], ada)

    assert await nodes[0].deliver([ada], b"frame") == set()
    await eventually(lambda: laptop.frames == phone.frames == [b"frame"])


async def test_a_user_whose_node_is_dead_is_nowhere(nodes: tuple[Node, Node]) -> None:
    ada = uuid4()
    await nodes[0].registry.online.arrive("node.dead.boot", [str(ada)])

    assert await nodes[0].deliver([ada], b"frame") == {ada}


async def test_a_socket_that_closed_while_the_frame_was_on_its_way_is_reported(nodes: tuple[Node, Node]) -> None:
    unreached: list[set[UUID]] = []

    async def note(frame: bytes, user_ids: set[UUID]) -> None:
        unreached.append(user_ids)

    nodes[1].on_unreached(note)
    socket = await connect(nodes[1])
    nodes[1].hub.remove(socket)  # the registry does not know yet

    assert await nodes[0].deliver([user_of(socket)], b"frame") == set()
    await eventually(lambda: unreached == [{user_of(socket)}])


async def test_when_the_store_forgets_everything_the_nodes_put_it_back_and_resync(
    nodes: tuple[Node, Node], store: redis.Redis
) -> None:
    there = await connect(nodes[1])
    store.flushall()

    await eventually(lambda: RESYNC_FRAME in there.frames)
    assert await nodes[0].deliver([user_of(there)], b"frame") == set()
    await eventually(lambda: there.frames[-1] == b"frame")


async def test_who_comes_back_after_the_store_has_lost_its_scripts_is_here(
    nodes: tuple[Node, Node], store: redis.Redis
) -> None:
    ada, attendance = str(uuid4()), nodes[0].attendance
    await attendance.arrive(ada)
    store.script_flush()
    await attendance.arrive(str(uuid4()))  # that one it knows again

    await asyncio.gather(attendance.depart([ada]), attendance.arrive(ada))

    assert store.exists(f"online:{ada}")


async def test_a_departure_that_the_store_carries_out_late_takes_nobody_away_who_has_come_back(
    nodes: tuple[Node, Node], store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, online = str(uuid4()), nodes[0].registry.online
    asked_at = now_ms() - 2_000
    await online.arrive(nodes[0].channel, [ada])

    monkeypatch.setattr("apps.presence.registry.now_ms", lambda: asked_at)
    assert await online.depart(nodes[0].channel, [ada]) == set()
    monkeypatch.undo()

    assert await online.nodes_of([ada]) == {ada: [nodes[0].channel]}
    assert await online.held_by(nodes[0].channel) == {ada}


async def test_when_the_subscription_is_cut_the_node_resyncs(nodes: tuple[Node, Node], store: redis.Redis) -> None:
    there = await connect(nodes[1])
    store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    await eventually(lambda: RESYNC_FRAME in there.frames)
    await eventually(lambda: nodes[1].exchange.hears_itself)


async def test_when_redis_goes_back_by_less_than_a_lease_nobody_stays_forgotten(
    nodes: tuple[Node, Node], store: redis.Redis
) -> None:
    there = await connect(nodes[1])
    store.delete(f"online:{user_of(there)}")  # who arrived after the last renewal of the lease
    store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    await eventually(lambda: store.exists(f"online:{user_of(there)}"))
    await eventually(lambda: there.frames.count(RESYNC_FRAME) >= 2)  # for what was cut, and for who was forgotten


async def test_a_frame_lost_on_the_bus_shows_and_the_sockets_resync(nodes: tuple[Node, Node]) -> None:
    there = await connect(nodes[1])
    nodes[0].exchange._counters.next(nodes[1].channel)  # counted as sent, and never sent

    await eventually(lambda: RESYNC_FRAME in there.frames)


async def test_a_beat_that_the_store_did_not_take_is_sent_again(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await connect(nodes[1])
    nodes[0].exchange._counters.next(nodes[1].channel)  # counted as sent, and never sent
    send = nodes[0].exchange._layer.send

    async def refuse(*_: Any) -> int:
        monkeypatch.setattr(nodes[0].exchange._layer, "send", send)
        raise redis.exceptions.ConnectionError("away")

    monkeypatch.setattr(nodes[0].exchange._layer, "send", refuse)

    await eventually(lambda: RESYNC_FRAME in there.frames)


async def test_nothing_is_promised_while_the_bus_is_away(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise redis.exceptions.ConnectionError("away")

    monkeypatch.setattr("apps.presence.node.BUS_DEADLINE_S", 0.1)
    monkeypatch.setattr(nodes[0].registry, "nodes_of", refuse)
    here = await connect(nodes[0])

    with pytest.raises(BusAway):
        await nodes[0].deliver([user_of(here)], b"frame")
    assert here.frames == [b"frame"]  # what can be told is told


async def test_a_dead_nodes_users_are_taken_offline_by_another(nodes: tuple[Node, Node], store: redis.Redis) -> None:
    ada = uuid4()
    await nodes[0].registry.online.arrive("node.dead.boot", [str(ada)])
    store.zadd("nodes", {"node.dead.boot": 1})  # its lease ended long ago

    await eventually(lambda: not store.exists(f"online:{ada}"))
    await eventually(lambda: store.zscore("nodes", "node.dead.boot") is None)


async def test_watchers_on_another_node_hear_of_coming_and_going(nodes: tuple[Node, Node]) -> None:
    ada = await asyncio.to_thread(User.objects.create_user, "ada", "correct horse battery")
    watcher = await connect(nodes[1])
    await nodes[1].watch(watcher, frozenset({str(ada.id)}))

    def statuses() -> list[str]:
        events = [msgspec.json.decode(frame) for frame in watcher.frames]
        return [event["status"] for event in events if event["type"] == "presence"]

    socket = await connect(nodes[0], ada.id)
    await eventually(lambda: statuses() == ["online"])
    await nodes[0].remove(socket)
    await eventually(lambda: statuses() == ["online", "offline"])
    assert msgspec.json.decode(watcher.frames[-1])["last_seen_at"] is not None


async def test_a_silent_socket_is_closed_with_4408(nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    async def close(code: int) -> None:
        closed.append(code)

    silent, talking = await connect(nodes[0]), await connect(nodes[0])
    silent.last_heard -= 61
    monkeypatch.setattr(silent, "close", close)

    await nodes[0]._close_silent()

    assert closed == [4408]
    assert talking in nodes[0].hub.sockets()


async def test_live_nodes_say_how_many_they_hold(nodes: tuple[Node, Node]) -> None:
    await connect(nodes[0])
    await nodes[0]._renew_lease()

    found = {info.name: info for info in await nodes[1].registry.nodes()}
    assert found["node-1"].connections == found["node-1"].users == 1
    assert found["node-2"].connections == 0

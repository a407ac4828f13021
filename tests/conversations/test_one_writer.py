"""Two nodes that write one conversation at once, each with a store of its own: which of them has what?"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import pytest

from apps.conversations.errors import Unavailable
from apps.conversations.history import one_writer
from apps.conversations.history.base import Contended, MembersChanged
from apps.conversations.history.group_commit import History
from apps.conversations.messages import Draft, Kind, Message
from apps.presence.bus import ChannelLayer
from apps.presence.node import Node
from tests.system.servers import eventually

NOW = datetime(2026, 11, 28, tzinfo=UTC)
CONVERSATION = UUID(int=1)


class Store:
    def __init__(self) -> None:
        self.contended: Collection[UUID] = ()  # where others are always faster
        self.stored: list[Draft] = []
        self.fails_with: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, drafts: Sequence[Draft], members_version: int, *, give_way: bool = False) -> list[Message]:
        if give_way and drafts[0].conversation_id in self.contended:
            raise Contended
        await self.gate.wait()
        if self.fails_with is not None:
            raise self.fails_with
        self.stored += drafts
        first = len(self.stored) - len(drafts) + 1
        return [
            Message(each.conversation_id, seq, each.sender_id, each.client_msg_id, each.kind, each.content, NOW)
            for seq, each in enumerate(drafts, first)
        ]

    async def start(self) -> None: ...

    close = ping = start


class Side(NamedTuple):
    node: Node
    store: Store
    history: History

    async def say(self, *texts: str, version: int = 3) -> list[Message]:
        drafts = [Draft(CONVERSATION, uuid4(), uuid4(), text, Kind.TEXT, after_seq=None) for text in texts]
        return list(await asyncio.gather(*(self.history.append(draft, version) for draft in drafts)))


@pytest.fixture
async def sides(embedded_valkey: str, transactional_db: None) -> AsyncIterator[list[Side]]:
    """The first is the one that both choose."""
    layer = ChannelLayer(embedded_valkey)
    await layer.pipe().execute("FLUSHALL")
    sides = []
    for name in ("node-1", "node-2"):
        store = Store()
        sides.append(Side(Node(name, layer), store, History(cast(Any, store))))
    for node, _, history in sides:
        history.attach(node.exchange, node.registry)
        await node.start()
    await eventually(lambda: all(side.node.exchange.hears_itself for side in sides))
    chosen = {await side.history._writer._writer_of(CONVERSATION, side.node.exchange) for side in sides}
    assert len(chosen) == 1
    yield sorted(sides, key=lambda side: side.node.channel not in chosen)
    for node, store, history in sides:
        store.gate.set()
        await history.close()
        await node.stop()


async def test_each_writes_by_itself_what_nobody_else_does(sides: list[Side]) -> None:
    for side in sides:
        await side.say("one", "two")
    assert [len(side.store.stored) for side in sides] == [2, 2]


async def test_what_both_write_at_once_one_of_them_stores(sides: list[Side]) -> None:
    writer, other = sides
    for side in sides:
        side.store.contended = {CONVERSATION}

    here, there = await asyncio.gather(writer.say("one", "two"), other.say("three", "four"))

    assert other.store.stored == []
    assert sorted(message.seq for message in here + there) == [1, 2, 3, 4]
    for message in here + there:
        draft = writer.store.stored[message.seq - 1]
        assert (draft.sender_id, draft.client_msg_id) == (message.sender_id, message.client_msg_id)
        assert (draft.content, draft.kind, message.sent_at) == (message.content, message.kind, NOW)
    assert [message.content for message in there] == ["three", "four"]
    assert there[0].seq < there[1].seq


async def test_who_loses_tells_also_those_who_do_not(sides: list[Side]) -> None:
    writer, other = sides
    writer.store.contended = {CONVERSATION}

    await writer.say("one")
    await eventually(lambda: CONVERSATION in other.history._writer._contended)
    await other.say("two")

    assert [draft.content for draft in writer.store.stored] == ["one", "two"]
    assert other.store.stored == []


@pytest.mark.parametrize("error", [MembersChanged(7), Unavailable("It is full.")])
async def test_a_refusal_is_that_of_the_writer(sides: list[Side], error: Exception) -> None:
    writer, other = sides
    other.store.contended = {CONVERSATION}
    writer.store.fails_with = error

    with pytest.raises(type(error)) as refused:
        await other.say("one")

    assert str(refused.value) == str(error)
    assert other.store.stored == []


async def test_without_an_answer_in_time_a_node_writes_by_itself_and_does_not_ask_again_soon(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = sides
    other.store.contended = {CONVERSATION}
    writer.store.gate.clear()
    monkeypatch.setattr(one_writer, "ANSWER_S", 0.1)

    await other.say("one")
    writer.store.gate.set()
    await eventually(lambda: [draft.content for draft in writer.store.stored] == ["one"])
    await other.say("two")

    assert [draft.content for draft in other.store.stored] == ["one", "two"]


async def test_a_node_that_has_died_is_passed_over_at_once(sides: list[Side]) -> None:
    writer, other = sides
    other.store.contended = {CONVERSATION}
    dead = "node.dead.0"
    await other.node.registry.renew_lease(dead, 1, cast(Any, {}))
    other.history._writer._passed_over[writer.node.channel] = True
    conversation = CONVERSATION
    while await other.history._writer._writer_of(conversation, other.node.exchange) != dead:
        conversation = uuid4()
    other.store.contended = {conversation}

    draft = Draft(conversation, uuid4(), uuid4(), "one")
    await asyncio.wait_for(other.history.append(draft, 0), one_writer.ANSWER_S / 2)

    assert other.store.stored == [draft]
    assert await other.history._writer._writer_of(conversation, other.node.exchange) == other.node.channel


async def test_without_redis_a_node_writes_by_itself(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = sides
    other.store.contended = {CONVERSATION}

    async def away() -> list[str]:
        raise one_writer.RedisError("away")

    monkeypatch.setattr(other.node.registry, "live_nodes", away)
    await other.say("one")
    assert [draft.content for draft in other.store.stored] == ["one"]

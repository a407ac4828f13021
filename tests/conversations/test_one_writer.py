"""Two nodes that write one conversation at once, each with a store of its own: which of them has what?"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import pytest

from apps.conversations.errors import Unavailable
from apps.conversations.history import one_writer
from apps.conversations.history.base import Contended, MembersChanged
from apps.conversations.history.group_commit import History
from apps.conversations.messages import Draft, Message
from apps.presence.bus import ChannelLayer
from apps.presence.node import Node
from tests.system.servers import eventually

NOW = datetime(2026, 11, 28, tzinfo=UTC)
CONVERSATION = UUID(int=1)


class Store:
    def __init__(self) -> None:
        self.contended: Collection[UUID] = ()  # where others are always faster
        self.stored: list[Draft] = []
        self.batches: list[int] = []
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
        self.batches.append(len(drafts))
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

    async def say(self, *texts: str) -> list[Message]:
        drafts = [Draft(CONVERSATION, uuid4(), uuid4(), text) for text in texts]
        return list(await asyncio.gather(*(self.history.append(draft, 3) for draft in drafts)))

    @property
    def others(self) -> one_writer._Others:
        others = self.history._writer._others
        assert others is not None
        return others

    @property
    def said(self) -> list[str]:
        """What its store has."""
        return [draft.content for draft in self.store.stored]


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
        history.attach(node.exchange, node.registry, history.append_for_another)
        await node.start()
    await eventually(lambda: all(side.node.exchange.hears_itself for side in sides))
    chosen = [await side.others.writer_of(CONVERSATION) for side in sides]
    assert chosen.count(None) == 1
    yield sides if chosen[0] is None else sides[::-1]
    for node, store, history in sides:
        store.gate.set()
        await history.close()
        await node.stop()


async def test_each_writes_by_itself_what_nobody_else_does(sides: list[Side]) -> None:
    for side in sides:
        await side.say("one", "two")
    assert [side.said for side in sides] == [["one", "two"]] * 2


async def test_what_both_write_at_once_one_of_them_stores(sides: list[Side]) -> None:
    writer, other = sides
    for side in sides:
        side.store.contended = {CONVERSATION}

    here, there = await asyncio.gather(writer.say("one", "two"), other.say("three", "four"))

    assert other.said == []
    assert sorted(message.seq for message in here + there) == [1, 2, 3, 4]
    for message in here + there:
        draft = writer.store.stored[message.seq - 1]
        assert (draft.sender_id, draft.client_msg_id) == (message.sender_id, message.client_msg_id)
        assert (draft.content, draft.kind, message.sent_at) == (message.content, message.kind, NOW)
    assert there[0].seq < there[1].seq


async def test_who_loses_tells_also_those_who_do_not(sides: list[Side]) -> None:
    writer, other = sides
    writer.store.contended = {CONVERSATION}

    await writer.say("one")
    await eventually(lambda: CONVERSATION in other.history._writer._contended)
    await other.say("two")

    assert (writer.said, other.said) == (["one", "two"], [])


async def test_only_the_writer_waits_for_more_to_come(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    writer, other = sides
    monkeypatch.setattr(one_writer, "LET_COME_S", 30)
    other.history._writer._contended[CONVERSATION] = True
    await asyncio.wait_for(other.say("one"), 5)

    monkeypatch.setattr(one_writer, "LET_COME_S", 0.5)
    writer.history._writer._contended[CONVERSATION] = True
    await asyncio.gather(writer.say("two"), other.say("three"))

    assert (writer.store.batches, other.said) == ([1, 2], [])


@pytest.mark.parametrize("error", [MembersChanged(7), Unavailable("It is full.", retry_after_ms=700)])
async def test_a_refusal_is_that_of_the_writer(sides: list[Side], error: Exception) -> None:
    writer, other = sides
    other.store.contended = {CONVERSATION}
    writer.store.fails_with = error

    with pytest.raises(type(error)) as refused:
        await other.say("one")

    assert vars(refused.value) == vars(error)
    assert other.said == []


async def test_who_is_asked_asks_nobody_else(sides: list[Side]) -> None:
    writer, other = sides
    for side in sides:
        side.store.contended = {CONVERSATION}
    await writer.others.ask(other.node.channel, [Draft(CONVERSATION, uuid4(), uuid4(), "one")], 3)
    assert (writer.said, other.said) == ([], ["one"])


async def test_where_the_writer_fails_for_a_reason_of_its_own_a_node_writes_by_itself(sides: list[Side]) -> None:
    writer, other = sides
    other.store.contended = {CONVERSATION}
    writer.store.fails_with = RuntimeError("a bug")

    await other.say("one")

    assert other.said == ["one"]


async def test_what_the_writer_gets_to_too_late_it_leaves_to_the_node_that_has_given_up(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = sides
    other.store.contended = {CONVERSATION}
    monkeypatch.setattr(one_writer, "ANSWER_S", 0.2)
    writer.store.gate.clear()
    slow = asyncio.create_task(writer.say("slow"))

    await other.say("one")
    assert await other.others.writer_of(CONVERSATION) is None  # it does not ask again soon
    await other.say("two")
    writer.store.gate.set()
    await slow
    await writer.say("last")

    assert (writer.said, other.said) == (["slow", "last"], ["one", "two"])


async def test_a_node_that_has_died_is_passed_over_at_once(sides: list[Side]) -> None:
    _, other = sides
    dead = "node.dead.0"
    await other.node.registry.renew_lease(dead, 1, cast(Any, {}))
    await eventually(lambda: time.monotonic() > other.others._asks_again_at)
    conversation = CONVERSATION
    while await other.others.writer_of(conversation) != dead:
        conversation = uuid4()
    other.store.contended = {conversation}

    draft = Draft(conversation, uuid4(), uuid4(), "one")
    await asyncio.wait_for(other.history.append(draft, 0), one_writer.ANSWER_S / 2)

    assert other.store.stored == [draft]
    assert await other.others.writer_of(conversation) != dead


async def test_who_ends_writes_by_itself_and_does_not_wait_for_an_answer(sides: list[Side]) -> None:
    writer, other = sides
    other.store.contended = {CONVERSATION}
    writer.store.gate.clear()
    waiting = asyncio.create_task(other.say("one"))
    await eventually(lambda: bool(writer.history._waiting))

    await asyncio.wait_for(other.history.close(), one_writer.ANSWER_S / 2)

    await waiting
    assert other.said == ["one"]


async def test_without_redis_a_node_writes_by_itself(sides: list[Side], monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = sides
    other.store.contended = {CONVERSATION}

    async def away() -> list[str]:
        raise one_writer.RedisError("away")

    monkeypatch.setattr(other.node.registry, "live_nodes", away)
    other.others._asks_again_at = 0
    await other.say("one")
    await other.say("two")
    assert other.said == ["one", "two"]

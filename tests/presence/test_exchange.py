import asyncio
from typing import Any, cast
from uuid import uuid4

import pytest

from apps.presence import node as node_module
from apps.presence.exchange import Exchange
from apps.presence.node import Node


class FullLayer:
    """A bus on which there is always one message more, until the end."""

    def __init__(self, messages: int) -> None:
        self.left = messages

    def on_reconnect(self, channel: str, callback: Any) -> None: ...

    async def subscribe(self, channel: str, group: str) -> None: ...

    async def receive(self, channel: str) -> dict[str, Any]:
        if not self.left:
            raise EOFError
        self.left -= 1
        return {"type": "noise"}

    def pipe(self) -> None:
        """Nothing is asked of Redis here."""


async def test_a_bus_that_is_never_empty_lets_others_have_their_turn() -> None:
    exchange = Exchange("here", cast(Any, FullLayer(1_000)), lambda reason: None)
    heard = 0

    async def hear(message: dict[str, Any]) -> None:
        nonlocal heard
        heard += 1

    exchange.on("noise", hear)
    receiving = asyncio.create_task(exchange.receive_forever())
    turns = 0
    while not receiving.done():
        turns += 1
        await asyncio.sleep(0)

    assert isinstance(receiving.exception(), EOFError)
    assert heard == 1_000
    assert turns > 10


async def test_so_many_absent_members_are_dealt_with_at_once_and_then_the_bus_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_module, "MAX_TASKS", 2)
    node = Node("here", cast(Any, FullLayer(0)))
    may_end = asyncio.Event()
    begun = 0

    async def unreached(frame: bytes, user_ids: Any) -> None:
        nonlocal begun
        begun += 1
        await may_end.wait()

    node.on_unreached(unreached)
    message = {"to": uuid4().bytes, "frame": b"{}"}
    for _ in range(2):
        await node._on_frame(message)
    third = asyncio.create_task(node._on_frame(message))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert begun == 3
    assert not third.done()
    may_end.set()
    await third


class SlowLayer:
    """A bus that answers nothing until it is told to."""

    def __init__(self) -> None:
        self.asked: dict[str, asyncio.Future[int]] = {}

    def publish(self, channel: str, message: dict[str, Any]) -> "asyncio.Future[int]":
        self.asked[channel] = asyncio.get_running_loop().create_future()
        return self.asked[channel]

    async def send(self, channel: str, message: dict[str, Any]) -> int:
        return await self.publish(channel, message)

    def pipe(self) -> Any:
        return self

    waiting = 0


async def test_beats_to_many_nodes_go_out_at_once_and_not_one_after_the_other() -> None:
    layer = SlowLayer()
    exchange = Exchange("here", cast(Any, layer), lambda reason: None)
    for number in range(3):
        exchange.send(f"there-{number}", {"type": "noise"})
    layer.asked.clear()
    beating = asyncio.create_task(exchange.beat())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert set(layer.asked) == {"here", "there-0", "there-1", "there-2"}
    for answer in layer.asked.values():
        answer.set_result(1)
    await beating

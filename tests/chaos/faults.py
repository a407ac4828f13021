"""
The faults: each breaks something while a scene's people chat, and heals it before it returns.

A fault says in `stacks` where its part exists. What it raises is a violation of its scene.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.scene import Failed, Fault, Scene
from tests.chaos.world import StackName
from tests.system.servers import Node, eventually

FAILPOINTS = [
    "received",
    "checked",
    "storing",
    "committing",
    "stored",
    "told-here",
    "told",
    "handing-over",
    "handed-over",
    "acking",
]

BOTH: tuple[StackName, ...] = ("embedded", "full")


@dataclass(frozen=True)
class Row:
    name: str
    breaks: Fault
    stacks: tuple[StackName, ...]


ROWS: list[Row] = []


def row(name: str, stacks: tuple[StackName, ...] = BOTH) -> Callable[[Fault], Fault]:
    def add(fault: Fault) -> Fault:
        ROWS.append(Row(name, fault, stacks))
        return fault

    return add


# --- nodes -----------------------------------------------------------------------------------------------------------
@row("a node dies between two steps of a send")
async def node_dies(scene: Scene) -> None:
    places = [place for place in FAILPOINTS if place != "committing" or scene.world.stack == "embedded"]
    places = scene.random.sample(places, scene.size(len(places), 2))
    one, other = scene.pick(2)
    await asyncio.gather(_dies_at(scene, one, places[::2]), _dies_at(scene, other, places[1::2]))


async def _dies_at(scene: Scene, node: Node, places: list[str]) -> None:
    await scene.world.kill_node(node)
    for place in places:
        await scene.world.start_node(node, f"{place}:{scene.random.randint(1, 4)}")
        await scene.move(6)
        process = node.process
        try:
            await eventually(lambda process=process: process.poll() is not None, 20)
        except AssertionError:
            raise Failed(f"{node.name} never came to {place}") from None
        scene.world.is_down(node)
        scene.note(f"{node.name} died at {place}")
        if process.returncode != -signal.SIGKILL:
            raise Failed(f"{node.name} ended with {process.returncode} at {place}")
    await scene.world.start_node(node)

"""
The rows of the fault suite, as faults.py and clients.py fill them in.

A fault breaks something while a scene's people chat, and heals it before it returns; what it raises is a violation.
`part` says what it breaks, and `stacks` where that exists: rows of different parts may be broken at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.scene import Fault
from tests.chaos.world import StackName

BOTH: tuple[StackName, ...] = ("embedded", "full")
EMBEDDED: tuple[StackName, ...] = ("embedded",)
FULL: tuple[StackName, ...] = ("full",)


@dataclass(frozen=True)
class Row:
    name: str
    part: str
    breaks: Fault
    stacks: tuple[StackName, ...]


def adding_to(rows: list[Row]) -> Callable[..., Callable[[Fault], Fault]]:
    """A decorator that makes a row of a fault."""

    def row(part: str, name: str, stacks: tuple[StackName, ...] = BOTH) -> Callable[[Fault], Fault]:
        def add(fault: Fault) -> Fault:
            rows.append(Row(name, part, fault, stacks))
            return fault

        return add

    return row

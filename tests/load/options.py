"""What is to be measured, as the environment says."""

import os
from collections.abc import Sequence

from tests.load.bench import Plan
from tests.load.peers import Channels, Ejabberd
from tests.load.targets import BASE_DIR, Chat, Target
from tests.load.workloads import SMALL, WORKLOADS, Size

ARTEFACTS = BASE_DIR / "artefacts" / "bench"


class Refused(Exception):
    """Nothing was measured, for a reason that one line can tell."""


def chosen(name: str, default: str, known: Sequence[str] = ()) -> list[str]:
    """What an environment variable lists, separated by commas. Raises Refused."""
    values = [value for value in os.environ.get(name, default).replace(" ", "").split(",") if value]
    if unknown := [value for value in values if known and value not in known]:
        raise Refused(f"{name} has {', '.join(unknown)}; it may list {', '.join(known)}")
    return values


def plan_of_environment() -> Plan:
    """Raises Refused."""
    stacks: list[Target] = [Chat(stack) for stack in chosen("STACKS", "embedded,full", ["embedded", "full"])]
    known = {"channels": Channels, "ejabberd": Ejabberd}
    peers: list[Target] = [known[name]() for name in chosen("PEERS", "channels,ejabberd", list(known))]
    numbers = [str(number) for number in range(1, 65)]
    return Plan(
        targets=[*stacks, *peers],
        workloads=chosen("WORKLOADS", ",".join(WORKLOADS), list(WORKLOADS)),
        nodes=[int(number) for number in chosen("NODES", "1,2,4", numbers)],
        rounds=int(chosen("ROUNDS", "3", numbers)[0]),
        size=SMALL if os.environ.get("QUICK") else Size(),
        artefacts=ARTEFACTS,
        flame=bool(os.environ.get("FLAME")),
    )

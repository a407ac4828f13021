"""Rounds of workloads on targets, one after the other, each target started anew."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from tests.load import crowd as crowds
from tests.load import pace
from tests.load.machine import DRIVER_CORE, on_core
from tests.load.report import Report, Result
from tests.load.targets import CannotStart, Target
from tests.load.workloads import WORKLOADS, Outcome, Run, Size, in_turn

HOT_NODES = 4
MORE_NODES = frozenset({"direct", "group"})  # which are measured with every number of nodes
FINE_GROWTH = 1.25
WARM_UP_RATE = 200
WARM_UP_STEP_S = 5.0
WARM_UP_PEOPLE = 40


@dataclass(frozen=True)
class Plan:
    targets: Sequence[Target]
    workloads: Sequence[str]
    nodes: Sequence[int]
    rounds: int
    size: Size
    artefacts: Path
    flame: bool = False

    def starts_of(self, target: Target) -> Iterator[tuple[int, list[str]]]:
        """How often a target is started, each time with so many nodes and for these workloads."""
        wanted = [name for name in self.workloads if name in target.can]
        least = min(self.nodes)
        for nodes in sorted({*self.nodes, HOT_NODES} if target.has_nodes else {least}):
            here = [
                name
                for name in wanted
                if (
                    nodes == HOT_NODES
                    if name == "hot"
                    else nodes in self.nodes and (nodes == least or name in MORE_NODES)
                )
            ]
            if here:
                yield nodes, here


def measure(plan: Plan, report: Report) -> None:
    """Adds to the report as it goes. Targets take turns, so that what changes on the machine changes for all."""
    for number in range(1, plan.rounds + 1):
        for target in plan.targets:
            for nodes, workloads in plan.starts_of(target):
                if target.name not in report.left_out:
                    _measure_one(plan, report, target, number, nodes, workloads)


def _measure_one(plan: Plan, report: Report, target: Target, number: int, nodes: int, workloads: list[str]) -> None:
    print(f"round {number}: {target.name} with {nodes} node(s)", flush=True)
    try:
        target.start(nodes)
    except CannotStart as reason:
        report.left_out[target.name] = str(reason)
        print(f"  left out: {reason}", flush=True)
        return
    try:
        with on_core(DRIVER_CORE):
            for workload in workloads:
                climb = _climb(plan, report, target, workload)
                outcome = uvloop.run(_one(plan, target, workload, climb, warm=workload is workloads[0]))
                result = Result(
                    workload=workload, target=target.name, nodes=nodes, round=number, figures=outcome.figures,
                    steps=outcome.steps, violations=outcome.violations,
                )  # fmt: skip
                report.results.append(result)
                print(f"  {workload}: {_line(outcome)}", flush=True)
    finally:
        target.stop()


def _line(outcome: Outcome) -> str:
    figures = ", ".join(f"{value:,.4g} {name}" for name, value in outcome.figures.items())
    return f"{figures}; {len(outcome.violations)} violations" if outcome.violations else figures


def _climb(plan: Plan, report: Report, target: Target, workload: str) -> tuple[float, float]:
    """The first rate and the growth: in a later round, from a step below what held in the one before."""
    before = [
        best.rate
        for each in report.results
        if (each.workload, each.target, each.nodes) == (workload, target.name, target.nodes)
        and (best := pace.best(each.steps)) is not None
    ]
    return (before[-1] / FINE_GROWTH, FINE_GROWTH) if before else (plan.size.first_rate, 2.0)


async def _one(plan: Plan, target: Target, workload: str, climb: tuple[float, float], *, warm: bool) -> Outcome:
    if warm and plan.size.warm_up:
        await warm_up(target)
    name = f"{workload}-{target.name}-{target.nodes}"
    run = Run(target, plan.size, plan.artefacts / f"{name}.jsonl", *climb)
    with _flame(target, plan.artefacts / f"{name}.svg") if plan.flame else contextlib.nullcontext():
        return await WORKLOADS[workload](run)


async def warm_up(target: Target) -> None:
    """What compiles as it runs, or reads what it needs the first time, does so before anything counts."""
    crowd = await target.gather(WARM_UP_PEOPLE)
    await crowds.connect(crowd.clients)
    plan, until = in_turn(crowd.pairs), time.monotonic() + target.warm_up_s
    while time.monotonic() < until:  # a step ends early where the server is hopelessly behind, as it may be at first
        await pace.run_step(crowd, plan, target.processes(), WARM_UP_RATE, WARM_UP_STEP_S)
    crowds.close(crowd.clients)


@contextlib.contextmanager
def _flame(target: Target, file: Path) -> Iterator[None]:
    """Where one of the target's Python servers spends its time meanwhile, as a flame graph."""
    file.parent.mkdir(parents=True, exist_ok=True)
    uv = str(Path(sys.executable).with_name("uv"))
    record = [uv, "tool", "run", "--quiet", "py-spy", "record", "--nonblocking", "--output", str(file), "--pid"]
    sampler = subprocess.Popen(
        [*record, str(target.servers()[0])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        sampler.send_signal(signal.SIGINT)  # on which it writes
        sampler.wait(60)

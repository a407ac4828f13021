"""
`make bench-compare BASE=commit`: that commit's server and this one, in turns, and by how much they differ.

The driver is this tree's for both. BASE gets a worktree and an environment of its own, which are gone afterwards.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.load.bench import measure
from tests.load.machine import allow_many_sockets, end_when_told
from tests.load.options import ARTEFACTS, Refused, chosen, plan_of_environment
from tests.load.report import Report, Result, new_report, save, spread, table
from tests.load.targets import BASE_DIR, Chat, Checkout


@contextmanager
def checkout(commit: str) -> Iterator[Checkout]:
    """Raises Refused."""
    with tempfile.TemporaryDirectory(prefix="chat-base-") as directory:
        tree = Path(directory) / "tree"
        _run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], BASE_DIR)
        try:
            uv = str(Path(sys.executable).with_name("uv"))
            _run([uv, "sync", "--quiet", "--locked", "--no-dev", "--python", sys.executable], tree)
            yield Checkout(tree, str(tree / ".venv" / "bin" / "python"))
        finally:
            _run(["git", "worktree", "remove", "--force", str(tree)], BASE_DIR)


def _run(command: list[str], directory: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"{' '.join(command[:3])}: {done.stderr.strip()}")


def ratios(report: Report, base: str, now: str) -> list[str]:
    """Of each figure, round by round, as a Markdown table."""
    rows = [f"| | {base} | {now} | ratio |", "|---|---|---|---|"]
    pairs = _pairs(report.results, base, now)
    for workload, nodes in dict.fromkeys((one.workload, one.nodes) for one, _ in pairs):
        here = [pair for pair in pairs if (pair[0].workload, pair[0].nodes) == (workload, nodes)]
        for name in here[0][1].figures:
            both = [(one.figures, other.figures) for one, other in here]
            values = [(one[name], other[name]) for one, other in both if name in one and name in other]
            times = [after / before for before, after in values if before]
            if times:
                before, after = (spread(side) for side in zip(*values, strict=True))
                rows.append(f"| {workload}, {nodes}: {name} | {before} | {after} | {spread(times)} |")
    return rows


def _pairs(results: Sequence[Result], base: str, now: str) -> list[tuple[Result, Result]]:
    of_base = {(each.workload, each.nodes, each.round): each for each in results if each.target == base}
    of_now = {(each.workload, each.nodes, each.round): each for each in results if each.target == now}
    return [(of_base[key], of_now[key]) for key in of_base if key in of_now]


def main() -> int:
    commit = os.environ.get("BASE", "")
    try:
        if not commit:
            raise Refused("say with what to compare: make bench-compare BASE=<commit>")
        stacks = chosen("STACKS", "embedded", ["embedded", "full"])
        allow_many_sockets()
        end_when_told()
        with checkout(commit) as base:
            targets = [target for stack in stacks for target in (Chat(stack, base, f"{stack}@{commit}"), Chat(stack))]
            plan = replace(plan_of_environment(), targets=targets)
            report = new_report(BASE_DIR, time.strftime("%Y-%m-%d %H:%M:%S"))
            measure(plan, report)
    except (Refused, ValueError) as refusal:
        print(f"bench-compare: {refusal}", file=sys.stderr)
        return 2
    print(f"\n{table(report)}")
    for stack in stacks:
        print("\n".join(ratios(report, f"{stack}@{commit}", stack)), "\n")
    print(f"{save(report, ARTEFACTS)}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

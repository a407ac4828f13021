"""What comes out of a run: every figure of every round as JSON, and a table of medians with their spread."""

import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tests.load.machine import description
from tests.load.pace import Measured


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One workload on one target, once."""

    workload: str
    target: str
    nodes: int
    round: int
    figures: dict[str, float]  # by name, which ends in the unit
    steps: list[Measured] = []
    violations: list[str] = []


class Report(msgspec.Struct, kw_only=True):
    machine: str
    commit: str
    began: str
    left_out: dict[str, str]  # targets that could not be had, with the reason
    results: list[Result]


def new_report(root: Path, began: str) -> Report:
    return Report(machine=description(), commit=commit_of(root), began=began, left_out={}, results=[])


def commit_of(root: Path) -> str:
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the most where they differ."""
    low, middle, high = (_short(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(report: Report) -> str:
    """Markdown, one table per workload."""
    lines = [f"{report.began}, commit {report.commit}, {report.machine}.", ""]
    for workload in dict.fromkeys(result.workload for result in report.results):
        lines += [f"### {workload}", "", *_rows([each for each in report.results if each.workload == workload]), ""]
    lines += [f"{target} was left out: {reason}" for target, reason in report.left_out.items()]
    violations = [f"{each.target}, {each.workload}: {text}" for each in report.results for text in each.violations]
    lines += ["**The checker found this, so these figures do not count:**", *violations] if violations else [
        "The checker found nothing in any of the histories."
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _rows(results: Iterable[Result]) -> list[str]:
    by_target: dict[str, list[Result]] = {}
    for result in results:
        nodes = f"{result.nodes} node{'s' * (result.nodes > 1)}"
        by_target.setdefault(f"{result.target}, {nodes}", []).append(result)
    names = list(dict.fromkeys(name for group in by_target.values() for each in group for name in each.figures))
    rows = [f"| | {' | '.join(by_target)} |", f"|---|{'---|' * len(by_target)}"]
    for name in names:
        cells = []
        for group in by_target.values():
            values = [each.figures[name] for each in group if name in each.figures]
            cells.append(spread(values) if values else "")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def save(report: Report, directory: Path) -> Path:
    """As JSON, and as a table beside it; the name of both without their ending."""
    directory.mkdir(parents=True, exist_ok=True)
    name = directory / f"{report.began.replace(':', '').replace(' ', '-')}-{report.commit}"
    name.with_name(f"{name.name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    name.with_name(f"{name.name}.md").write_text(table(report))
    return name

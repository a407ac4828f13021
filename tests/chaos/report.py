"""What a run of the fault suite has to show: Markdown for people, JUnit for machines."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.chaos.scene import Outcome

COLUMNS = ("fault", "stack", "played", "acked", "violations", "longest recovery", "bystanders' p99", "figures")


def write(directory: Path, outcomes: Sequence[Outcome], seed: str) -> None:
    (directory / "report.md").write_text(markdown(outcomes, seed))
    junit(outcomes).write(directory / "junit.xml", encoding="utf-8", xml_declaration=True)


def markdown(outcomes: Sequence[Outcome], seed: str) -> str:
    rows: defaultdict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        rows[outcome.fault, outcome.stack].append(outcome)
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    acked = sum(outcome.acked for outcome in outcomes)
    violations = sum(len(outcome.violations) for outcome in outcomes)
    lines = [
        f"SEED={seed}, {len(outcomes)} scenes, {minutes:.0f} minutes: {acked:,} acked, {violations} violations.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(_cells(fault, stack, played)) + " |" for (fault, stack), played in sorted(rows.items())),
    ]
    broken = [outcome for outcome in outcomes if outcome.violations]
    if broken:
        lines += ["", "```", *map(str, broken), "```"]
    return "\n".join(lines) + "\n"


def _cells(fault: str, stack: str, played: Sequence[Outcome]) -> list[str]:
    figures = {name: value for outcome in played for name, value in outcome.figures.items()}
    return [
        fault,
        stack,
        str(len(played)),
        f"{sum(outcome.acked for outcome in played):,}",
        str(sum(len(outcome.violations) for outcome in played)),
        _longest((outcome.recovered_s for outcome in played), "s", digits=1),
        _longest((outcome.bystanders_p99_ms for outcome in played), "ms", digits=0),
        "; ".join(f"{name}: {value}" for name, value in figures.items()),
    ]


def _longest(values: Iterable[float | None], unit: str, *, digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):,.{digits}f} {unit}" if known else ""


def junit(outcomes: Sequence[Outcome]) -> "ET.ElementTree[ET.Element]":
    broken = sum(bool(outcome.violations) for outcome in outcomes)
    suite = ET.Element("testsuite", name="chaos", tests=str(len(outcomes)), failures=str(broken))
    for outcome in outcomes:
        case = ET.SubElement(suite, "testcase", classname=f"chaos.{outcome.stack}", name=outcome.fault)
        case.set("time", f"{outcome.seconds:.3f}")
        if outcome.violations:
            ET.SubElement(case, "failure", message=outcome.violations[0]).text = str(outcome)
        ET.SubElement(case, "system-out").text = str(outcome)
    return ET.ElementTree(suite)

"""Thousands of interleavings of the real path of a message, and proof that they would notice if it were worse."""

import os
import re
import subprocess
import sys

import pytest

from tests.simulation.safeguards import SAFEGUARDS

SEEDS = 2_000

pytestmark = pytest.mark.timeout(600)  # seconds on a machine of its own; minutes on a busy one


def simulate(*options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it replaces clock, drivers and SQL."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    command = [sys.executable, "-m", "tests.simulation", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=580, check=False, env=environment)


def test_nothing_is_lost_doubled_or_reordered_in_any_interleaving() -> None:
    done = simulate("--seeds", str(SEEDS))

    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-4_000:]
    assert f"{SEEDS} seeds, nothing found" in done.stdout


def test_without_any_of_the_safeguards_some_seed_fails() -> None:
    done = simulate("--safeguards", "--seeds", str(SEEDS))

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^without (\w+): seed \d+: ", done.stdout, re.MULTILINE) == [each.name for each in SAFEGUARDS]


def test_a_seed_that_fails_is_told_with_its_trace_and_again_the_same() -> None:
    found = simulate("--without", "row_per_message")
    (seed,) = re.findall(r"seed (\d+): duplicate", found.stdout)

    first, second = (simulate("--without", "row_per_message", "--seed", seed) for _ in range(2))

    assert first.returncode == second.returncode == 1
    assert first.stdout == second.stdout
    assert f"seed {seed}: failed\n  duplicate: " in first.stdout
    assert re.search(r"^ +\d+\.\d+  \w+-laptop +send invoke [0-9a-f]{8} in [0-9a-f]{8}$", first.stdout, re.MULTILINE)

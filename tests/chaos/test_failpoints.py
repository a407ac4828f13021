"""A failpoint kills its process where it stands and when it is named, and at no other time."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import FAILPOINTS, PUSH_FAILPOINTS

ROOT = Path(__file__).parent.parent.parent
REACH = "from apps import failpoints\nfor _ in range(3):\n    failpoints.reached('stored')\n    print('on')\n"


@pytest.mark.parametrize(
    ("failpoint", "code", "went_on"), [("", 0, 3), ("told", 0, 3), ("stored", -signal.SIGKILL, 0), ("stored:3", -9, 2)]
)
def test_a_process_dies_when_it_reaches_what_is_named(failpoint: str, code: int, went_on: int) -> None:
    environment = os.environ | {"CHAT_FAILPOINT": failpoint, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REACH], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.count("on")) == (code, went_on)


def test_the_suite_knows_every_failpoint() -> None:
    code = "".join(file.read_text() for file in (ROOT / "apps").rglob("*.py"))
    assert sorted(re.findall(r'failpoints\.reached\("([a-z-]+)"\)', code)) == sorted(FAILPOINTS + PUSH_FAILPOINTS)

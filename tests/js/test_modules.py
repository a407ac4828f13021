"""The browser's modules, played by Node against what pytest reads as well: one run, one closing line."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None and os.environ.get("CI") != "true", reason="there is no Node.js")
@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.js")), ids=lambda file: file.name)
def test_the_browser_modules_pass_their_own_tests(file: Path) -> None:
    assert NODE is not None, "there is no Node.js"
    played = subprocess.run([NODE, "--test", str(file)], capture_output=True, text=True, timeout=100, check=False)
    assert played.returncode == 0, played.stdout[-6000:] + played.stderr[-2000:]

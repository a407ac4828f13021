"""`make run` as a process: what it starts comes back when it dies, ends when it ends, and is nobody else's."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatproject import processes
from tests.system.servers import BASE_DIR

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

COMMAND = [sys.executable, "-m", "chatproject.supervisor"]
PARTS = ["node-1", "node-2", "worker", "valkey"]


def environment(data: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {**inherited, "DATA": str(data), "STACK": "embedded", **settings}


def refusal(data: Path, **settings: str) -> str:
    """What a run that must not start says, in its one line."""
    tried = subprocess.run(
        COMMAND,
        cwd=BASE_DIR,
        env=environment(data, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert tried.returncode == 2
    assert tried.stdout == ""
    (line,) = tried.stderr.splitlines()
    return line


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (held := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return held


class Run:
    def __init__(self, data: Path, **settings: str) -> None:
        self.data = data
        self.port = processes.free_ports(1)[0]
        self.process = subprocess.Popen(
            COMMAND,
            cwd=BASE_DIR,
            env=environment(data, PORT=str(self.port), **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_until(lambda: any("Stop with" in line for line in self.said) or self.process.poll() is not None)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            self.said.extend(stream)  # line by line, as they come

    def pid(self, part: str) -> int | None:
        return processes.named_in(self.data / "run" / f"{part}.pid", self.data)

    def ready_nodes(self) -> set[str]:
        """Who answers: the kernel gives each connection to one of them."""
        return {name for name in (self._ask() for _ in range(12)) if name}

    def _ask(self) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as answer:
                return str(json.load(answer)["node"])
        except (urllib.error.URLError, OSError):
            return None

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        return code


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    started = Run(tmp_path_factory.mktemp("run") / "data")
    yield started
    if started.process.poll() is None:
        started.end()


def test_a_first_start_tells_the_address_and_the_passwords(run: Run) -> None:
    said = "".join(run.said)
    assert f"http://127.0.0.1:{run.port}/" in said
    for line in (run.data / "demo-users.txt").read_text().splitlines():
        username, password = line.split()
        assert username in said
        assert password in said
    assert run.ready_nodes() == {"node-1", "node-2"}


def test_secrets_are_for_their_owner_alone(run: Run) -> None:
    for name in (
        "chat.env",
        "demo-users.txt",
        "chat.sqlite3",
        "history.sqlite3",
        "log/node-1.log",
        "valkey/valkey.conf",
    ):
        assert stat.S_IMODE((run.data / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(run.data.stat().st_mode) == 0o700


def test_a_node_says_where_its_threads_are_and_goes_on(run: Run) -> None:
    pid = run.pid("node-1")
    assert pid is not None
    os.kill(pid, signal.SIGUSR1)
    log = run.data / "log" / "node-1.log"
    wait_until(lambda: "in main" in log.read_text())
    assert run.pid("node-1") == pid
    assert run.ready_nodes() == {"node-1", "node-2"}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_comes_back(run: Run, part: str) -> None:
    before = run.pid(part)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: run.pid(part) not in (None, before))
    wait_until(lambda: run.ready_nodes() == {"node-1", "node-2"})


def test_a_killed_worker_leaves_no_clock_behind(run: Run) -> None:
    before = wait_until(lambda: run.pid("worker"))
    wait_until(lambda: len(workers(run.data)) == 2)  # the worker, and its beat
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: run.pid("worker") not in (None, before))
    wait_until(lambda: len(workers(run.data)) == 2)
    assert before not in workers(run.data)


def workers(data: Path) -> list[int]:
    schedule = str(data / "run" / "beat")
    return [process.pid for process in psutil.process_iter(["cmdline"]) if schedule in (process.info["cmdline"] or [])]


def test_a_second_run_on_the_same_data_is_refused_and_touches_nothing(run: Run) -> None:
    before = {part: run.pid(part) for part in PARTS}
    line = refusal(run.data, PORT=str(processes.free_ports(1)[0]))
    assert line == f"chat: a chat server runs on {run.data} already"
    assert {part: run.pid(part) for part in PARTS} == before


def test_a_port_that_another_run_has_is_refused(run: Run, tmp_path: Path) -> None:
    assert refusal(tmp_path, PORT=str(run.port)) == (
        f"chat: port {run.port} on 127.0.0.1 cannot be used: Address already in use"
    )
    assert not (tmp_path / "chat.env").exists()


def test_told_to_stop_it_stops_everything_and_starts_again_on_the_same_data(run: Run) -> None:
    pids = [run.pid(part) for part in PARTS]
    assert run.end() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list((run.data / "run").glob("*.pid"))

    again = Run(run.data)
    try:
        assert again.ready_nodes() == {"node-1", "node-2"}
        pids = [again.pid(part) for part in PARTS]
        again.end(signal.SIGKILL)
        # Nobody told the children, but the system did.
        wait_until(lambda: not any(again.pid(part) for part in PARTS))
    finally:
        if again.process.poll() is None:
            again.end()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("PORT", "abc", "PORT is 'abc'; it must be a whole number from 1 to 65535"),
        ("PORT", "70000", "PORT is '70000'; it must be a whole number from 1 to 65535"),
        ("NODES", "0", "NODES is '0'; it must be a whole number from 1 to 64"),
        ("STACK", "half", "STACK is 'half'; it must be embedded or full"),
        ("SERVER", "gunicorn", "SERVER is 'gunicorn'; it must be daphne or uvicorn"),
        ("DATA", "/proc/chat", "DATA is /proc/chat, which cannot be used: No such file or directory"),
    ],
)
def test_rubbish_in_the_environment_gets_one_line(tmp_path: Path, setting: str, value: str, said: str) -> None:
    assert refusal(tmp_path, **{setting: value}) == f"chat: {said}"


def test_a_setting_of_the_chat_itself_is_refused_before_anything_listens(tmp_path: Path) -> None:
    line = refusal(tmp_path, PORT=str(processes.free_ports(1)[0]), CHAT_SENDS_PER_10S="many")
    assert "CHAT_SENDS_PER_10S is 'many'" in line
    assert not list((tmp_path / "run").glob("*.pid"))


def test_a_pid_file_that_names_somebody_elses_process_harms_nobody(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / "node-1.pid").write_text(f"{other.pid}\n")
    processes.end(tmp_path / "node-1.pid", tmp_path, grace_s=1)
    assert other.poll() is None
    other.communicate(b"\n")


@pytest.mark.services
def test_the_same_run_stands_on_real_services(tmp_path: Path, full_stores: dict[str, str]) -> None:
    run = Run(tmp_path / "data", STACK="full", **full_stores)
    try:
        assert run.ready_nodes() == {"node-1", "node-2"}, "".join(run.said)
        assert run.pid("worker")
        assert run.pid("valkey") is None
        assert not (run.data / "history.sqlite3").exists()
    finally:
        assert run.end() == 0


def test_a_run_on_real_services_needs_to_know_where_they_are(tmp_path: Path) -> None:
    line = refusal(tmp_path, STACK="full", PORT=str(processes.free_ports(1)[0]))
    assert line.startswith("chat: STACK=full needs its services: `make services` starts them")

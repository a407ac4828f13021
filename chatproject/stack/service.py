"""One real service on 127.0.0.1, without a container: started once, found again, and stopped by who started it."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path

from chatproject import processes

USER = "chat"  # of ours, on each of them
IS_ROOT = os.geteuid() == 0
START_DEADLINE_S = 90
STOP_GRACE_S = 20


class Missing(Exception):
    """A service can't be had here; says what to install."""


class DidNotStart(Exception):
    """Says where its log is, and how that ends."""


@dataclass
class Kept:
    """What stays the same over restarts."""

    password: str
    ports: list[int]


class Service(ABC):
    """One server with its data under `home`. Subclasses say what it needs, how it is run, and whether it answers."""

    name: str
    packages: tuple[str, ...]
    ports_needed = 1
    stop_signal = signal.SIGTERM

    def __init__(self, services: Path) -> None:
        self.home = (services / self.name).resolve()
        self.pid_file = self.home / f"{self.name}.pid"
        self.log_file = self.home / f"{self.name}.log"
        self.kept = Kept("", [])
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def port(self) -> int:
        return self.kept.ports[0]

    def start(self) -> str:
        """Its URL, once it answers there. One that runs already is left running."""
        self.check_installed()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if processes.named_in(self.pid_file, self.home) is None:
            self._keep()
            self.prepare()
            self.run(self.pid_file, self.command())
        else:
            self._remember()
        self._wait()
        return self.url

    def stop(self) -> None:
        for pid_file in sorted(self.home.glob("*.pid"), key=lambda file: file != self.pid_file):
            processes.end(pid_file, self.home, grace_s=STOP_GRACE_S, how=self.stop_signal)
        while self._children:
            child = self._children.pop()
            child.send_signal(self.stop_signal)  # ours, even if it has no title yet
            try:
                child.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def run(self, pid_file: Path, command: list[str]) -> None:
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=os.environ | {"HOME": str(self.home)} | self.environment(),
                start_new_session=True,
            )
        self._children.append(process)
        pid_file.write_text(f"{process.pid}\n")

    @abstractmethod
    def check_installed(self) -> None:
        """Raises Missing."""

    @abstractmethod
    def prepare(self) -> None:
        """Write what it reads when it starts."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool: ...

    def environment(self) -> dict[str, str]:
        return {}

    def _remember(self) -> None:
        self.kept = Kept(**json.loads((self.home / "kept.json").read_text()))

    def _keep(self) -> None:
        file = self.home / "kept.json"
        if file.exists():
            self._remember()
        if not all(processes.port_is_free(port) for port in self.kept.ports) or not self.kept.ports:
            self.kept.ports = processes.free_ports(self.ports_needed)
        self.kept.password = self.kept.password or secrets.token_hex(16)
        processes.write_private(file, json.dumps(asdict(self.kept)))

    def _runs(self) -> bool:
        # A child of ours is known by itself: Redis has no title for a moment, while it gives itself one.
        if self._children:
            return all(child.poll() is None for child in self._children)
        return processes.named_in(self.pid_file, self.home) is not None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not self.answers():
            if time.monotonic() > deadline or not self._runs():
                last = self.log_file.read_text(errors="replace").splitlines()[-3:]
                self.stop()
                raise DidNotStart(f"{self.name} did not start; {self.log_file} ends: {' | '.join(last)}")
            time.sleep(0.1)


def program(name: str, service: Service) -> str:
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{service.name}: there is no {Path(name).name}; install {' '.join(service.packages)}")
    return path

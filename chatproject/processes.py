"""Processes that outlive the one that started them, known by a pid file; and ports on 127.0.0.1."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

BACKLOG = 4_096  # connections that the system keeps until they are accepted; it has a bound of its own


def named_in(pid_file: Path, home: Path) -> int | None:
    """
    The pid of the running process that `pid_file` names, if it is ours: it shows `home` in its command or environment.

    A pid is given again after a while, to anybody's process.
    """
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return pid if str(home).encode() in _shown(pid) else None


def _shown(pid: int) -> bytes:
    if not Path("/proc/self/cmdline").exists():
        listing = ["ps", "eww", "-o", "command=", "-p", str(pid)]
        return subprocess.run(listing, capture_output=True, check=False).stdout
    shown = b""
    for part in ("cmdline", "environ"):  # a zombie has neither
        with contextlib.suppress(OSError):
            shown += Path(f"/proc/{pid}/{part}").read_bytes()
    return shown


def end(pid_file: Path, home: Path, *, grace_s: float, how: signal.Signals = signal.SIGTERM) -> None:
    """Ask it to stop, and kill it if it has not after `grace_s` seconds. A process that is not ours is left alone."""
    pid = named_in(pid_file, home)
    if pid is not None:
        for number, seconds in ((how, grace_s), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if _is_gone(pid_file, home, seconds):
                break
    pid_file.unlink(missing_ok=True)


def _is_gone(pid_file: Path, home: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while named_in(pid_file, home) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def port_is_free(port: int) -> bool:
    try:
        claim_port("127.0.0.1", port)
    except OSError:
        return False
    return True


def claim_port(host: str, port: int) -> None:
    """Raises OSError when it can't be had for oneself."""
    # Without SO_REUSEPORT: with it, two servers would share the port and nobody would notice.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def port_answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(number: int) -> list[int]:
    """Of those that systems do not give to outgoing connections, which would take one before it is used."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < number:
            port = random.randrange(20_000, 32_000)
            with contextlib.suppress(OSError):  # it is taken
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def write_private(file: Path, text: str) -> None:
    """For its owner alone, and either the old or the new text, whatever happens meanwhile."""
    new = file.with_name(f"{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    new.rename(file)

"""What a run needs to know of its machine, from Linux's /proc: cores to pin to, and what processes have used."""

import os
import platform
import resource
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SERVER_CORE, *_ = CORES = sorted(os.sched_getaffinity(0))
DRIVER_CORE = CORES[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started inside belongs to this core, and so does this thread meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allow_many_sockets() -> None:
    """As many open files as the system lets this process, and what it starts, have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def end_when_told() -> None:
    """On SIGTERM too, what was started is stopped: Python would end at once, and it would not."""
    signal.signal(signal.SIGTERM, _told_to_end)


def _told_to_end(*_: object) -> None:
    raise KeyboardInterrupt


def description() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    gigabytes = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES / 1e9
    return f"{os.cpu_count()} cores of {model}, {gigabytes:.0f} GB, Linux {platform.release()}"


# --- processes -------------------------------------------------------------------------------------------------------
def _stat(pid: str) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _families(roots: Mapping[str, Iterable[int]]) -> dict[str, list[list[str]]]:
    """Each kind's processes and all that descend from them, as their stats."""
    stats = {pid: fields for pid in filter(str.isdigit, os.listdir("/proc")) if (fields := _stat(pid))}
    children: dict[str, list[str]] = {}
    for pid, fields in stats.items():
        children.setdefault(fields[1], []).append(pid)
    families = {}
    for kind, pids in roots.items():
        family = [str(pid) for pid in pids]
        for pid in family:
            family += children.get(pid, [])
        families[kind] = [stats[pid] for pid in family if pid in stats]
    return families


def cpu_s(roots: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """CPU seconds that each kind of process has used so far, with its children, living and dead."""
    return {
        kind: sum(int(ticks) for stat in family for ticks in stat[11:15]) / TICKS_PER_S
        for kind, family in _families(roots).items()
    }


def memory_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes, with their children."""
    return sum(int(stat[21]) for stat in _families({"": pids})[""]) * PAGE_BYTES

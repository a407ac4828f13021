"""
How many pushes a worker process sends through FCM and through APNs: `python -m tests.load.push [fcm|apns] [THREADS]`.

The servers are a process of their own and answer after 20 ms. First the providers alone, from as many threads as a
worker has senders; then a whole worker on PostgreSQL, RabbitMQ, Redis and a history on SQLite, its ledger and composing
included. Prints one JSON object.
"""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import django
from django.conf import settings
from django.utils.module_loading import import_string

from apps.push.notification import Push
from apps.push.providers.base import Provider
from chatproject.stack import PostgreSQL, RabbitMQ, Redis
from tests.load.machine import description, end_when_told
from tests.load.targets import pids_in
from tests.system.servers import Installation, worker

ANSWER_MS = 20
PEOPLE = 6_000  # to be told, each on one device and of one conversation
WARM_UP_S, MEASURE_S = 2.0, 8.0


def a_push(conversation: Any) -> Push:
    return Push(
        push_id=uuid4(),
        kind="message",
        conversation_id=conversation,
        seq=1,
        title="Ada",
        body="See you at the station at eight, platform nine and three quarters.",
        path=f"/c/{conversation}/",
        badge=1,
        count=1,
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )


def measure(provider: Provider, threads: int) -> dict[str, Any]:
    outcomes: list[Counter[str]] = [Counter() for _ in range(threads)]
    waits: list[list[float]] = [[] for _ in range(threads)]
    begin = time.perf_counter() + WARM_UP_S
    end = begin + MEASURE_S

    def work(number: int) -> None:
        push = a_push(uuid4())
        while (started := time.perf_counter()) < end:
            result = provider.send(f"{number:064x}", push)
            if started >= begin:
                outcomes[number][result.outcome] += 1
                waits[number].append(time.perf_counter() - started)

    senders = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for sender in senders:
        sender.start()
    time.sleep(max(begin - time.perf_counter(), 0))
    cpu = time.process_time()
    for sender in senders:
        sender.join()
    cpu = time.process_time() - cpu
    total = sum(outcomes, Counter[str]())
    ordered = sorted(wait for each in waits for wait in each)
    sent = total["accepted"]
    return {
        "threads": threads,
        "per_second": round(sent / MEASURE_S),
        "other_outcomes": {name: count for name, count in total.items() if name != "accepted"},
        "p50_ms": round(1_000 * ordered[len(ordered) // 2], 1),
        "p99_ms": round(1_000 * ordered[len(ordered) * 99 // 100], 1),
        "cpu_us_per_push": round(1_000_000 * cpu / max(sent, 1)),
    }


# --- a whole worker --------------------------------------------------------------------------------------------------
@contextmanager
def stores(directory: Path) -> Iterator[tuple[dict[str, str], dict[str, list[int]]]]:
    """Their URLs by the setting, and their pids by name. Raises stack's Missing, DidNotStart."""
    services = {"DATABASE_URL": PostgreSQL(directory), "REDIS_URL": Redis(directory), "BROKER_URL": RabbitMQ(directory)}
    with ExitStack() as stack:
        urls = {}
        for setting, service in services.items():
            stack.callback(service.stop)
            urls[setting] = service.start()
        yield urls, {service.name: pids_in(service.home) for service in services.values()}


@contextmanager
def providers() -> Iterator[tuple[dict[str, str], int]]:
    """FCM's and APNs' servers: the settings that lead to them, and their pid."""
    command = [sys.executable, "-m", "tests.push_servers", str(ANSWER_MS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        assert servers.stdin is not None and servers.stdout is not None
        try:
            yield json.loads(servers.stdout.readline()), servers.pid
        finally:
            servers.stdin.close()


def main(names: list[str], threads: int) -> None:
    end_when_told()
    report: dict[str, Any] = {"machine": description(), "answer_ms": ANSWER_MS, "python": platform.python_version()}
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="chat-load-push-", ignore_cleanup_errors=True)))
        endpoints, servers = stack.enter_context(providers())
        urls, pids = stack.enter_context(stores(home / "services"))
        chat = stack.enter_context(Installation(home, urls, nodes=0, **endpoints))
        chat.load_users(2 * PEOPLE, 0)
        os.environ.update(chat.environment)
        django.setup()
        for name in names:
            report[name] = {"alone": measure(import_string(settings.PUSH_PROVIDERS[name])(), threads)}
        rows = import_module("tests.load.push_rows")  # models can be imported now
        places = rows.people_with_news()
        whole = stack.enter_context(worker(chat, home / "worker.log", "--beat"))
        pids |= {"worker": [whole.pid], "providers": [servers]}
        for name in names:
            report[name]["worker"] = rows.measure(name, places, pids)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:2] or ["fcm", "apns"], int(sys.argv[2]) if len(sys.argv) > 2 else 64)

"""
How many pushes a worker process sends through FCM and through APNs: `python -m tests.load.push [fcm|apns] [THREADS]`.

The servers are a process of their own and answer after 20 ms; this process is a worker's `-P threads`, without Celery.
Prints one JSON object.
"""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import django
from django.conf import settings
from django.utils.module_loading import import_string

from apps.push.notification import Push
from apps.push.providers.base import Provider

ANSWER_MS = 20
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

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(max(begin - time.perf_counter(), 0))
    cpu = time.process_time()
    for worker in workers:
        worker.join()
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


def main(names: list[str], threads: int) -> None:
    command = [sys.executable, "-m", "tests.push_servers", str(ANSWER_MS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        assert servers.stdout is not None
        os.environ.update(json.loads(servers.stdout.readline()), DJANGO_SETTINGS_MODULE="chatproject.settings.test")
        django.setup()
        report: dict[str, Any] = {"answer_ms": ANSWER_MS, "cores": os.cpu_count(), "python": platform.python_version()}
        for name in names:
            report[name] = measure(import_string(settings.PUSH_PROVIDERS[name])(), threads)
        assert servers.stdin is not None
        servers.stdin.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:2] or ["fcm", "apns"], int(sys.argv[2]) if len(sys.argv) > 2 else 64)

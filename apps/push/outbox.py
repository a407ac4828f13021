"""
Handing a task to the broker so that it is never forgotten: confirmed by the broker, or a row in the outbox table.

Publishing blocks, so a few threads do it; what is handed over while they are busy goes out together as one task.
"""

import asyncio
import logging
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from celery import current_app
from django.db import DatabaseError
from kombu.exceptions import OperationalError

from apps import failpoints
from apps.accounts.aio import in_db, per_loop
from apps.presence import metrics
from apps.push.models import OutboxTask

logger = logging.getLogger(__name__)

MAX_PER_TASK = 100
MAX_WAITING = 10_000
_PUBLISHERS = ThreadPoolExecutor(2, thread_name_prefix="publish")


class HandoverFailed(Exception):
    """Neither the broker nor the outbox table took it: do not promise anything."""


async def hand_over(task: str, notice: msgspec.Struct) -> None:
    """
    Have `task` called with a list that holds `notice`, in JSON's types, once or more, sooner or later.

    Returns when the broker has confirmed it or it stands in the outbox table. Raises HandoverFailed.
    """
    await _batcher().add(task, msgspec.to_builtins(notice))


class Batcher:
    """One publish under way per task name; what comes meanwhile goes in the next."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, list[tuple[Any, asyncio.Future[None]]]] = defaultdict(list)
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def add(self, task: str, notice: Any) -> None:
        if len(self._waiting[task]) >= MAX_WAITING:
            metrics.overflows.labels("push").inc()
            raise HandoverFailed("too many notifications are waiting for the broker")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[task].append((notice, done))
        if task not in self._busy:
            self._busy[task] = asyncio.create_task(self._drain(task))
        await done

    async def _drain(self, task: str) -> None:
        try:
            while waiting := self._waiting[task]:
                batch, self._waiting[task] = waiting[:MAX_PER_TASK], waiting[MAX_PER_TASK:]
                await self._publish(task, batch)
        finally:
            del self._busy[task]

    async def _publish(self, task: str, batch: list[tuple[Any, "asyncio.Future[None]"]]) -> None:
        failure: Exception | None = None
        try:
            await publish_or_keep(task, [notice for notice, _ in batch])
        except Exception as error:  # noqa: BLE001  (whatever it is, each of the waiting callers has to hear of it)
            failure = error if isinstance(error, HandoverFailed) else HandoverFailed(repr(error))
        for _, done in batch:
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)


_batcher = per_loop(Batcher)


async def publish_or_keep(task: str, notices: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    failpoints.reached("handing-over")
    try:
        await loop.run_in_executor(_PUBLISHERS, publish, task, notices)
        failpoints.reached("handed-over")
        metrics.pushes.labels("broker").inc(len(notices))
        return
    except (OperationalError, OSError) as error:
        logger.warning("the broker is away, the outbox keeps it: %s", error)
    try:
        await in_db(OutboxTask.objects.create, task=task, notices=notices)
        metrics.pushes.labels("outbox").inc(len(notices))
    except DatabaseError as error:
        raise HandoverFailed(str(error)) from error


def publish(task: str, notices: list[Any]) -> None:
    """Returns when the broker has confirmed the task. Raises kombu's OperationalError, OSError."""
    current_app.send_task(task, args=[notices], confirm_timeout=2)


def redrive() -> int:
    """Publish what the outbox holds, oldest first, until it is empty or the broker fails; returns how many went."""
    gone = 0
    for row in OutboxTask.objects.order_by("id").iterator(chunk_size=100):
        publish(row.task, row.notices)
        row.delete()  # after the confirmation: a row may go out twice, never not at all
        gone += 1
    return gone

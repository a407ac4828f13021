"""
What workers do so that pushes go out. The ledger (push/ledger.py) is the truth; a task that is lost, or comes twice, is
no harm.
"""

import itertools
import logging
from collections import deque
from typing import Any
from uuid import UUID

import msgspec
from celery import shared_task
from celery.signals import worker_process_shutdown, worker_shutdown
from django.utils import timezone
from redis.exceptions import RedisError

from apps.conversations import composing, notify
from apps.conversations.background import background
from apps.conversations.errors import Unavailable
from apps.push import ledger, sending
from apps.push import tasks as push
from apps.push.policy import Notice

logger = logging.getLogger(__name__)

DUE_AT_ONCE = 500  # in one transaction, which on SQLite everybody else waits for
PER_TASK = 100


# What fails to the end goes to the dead letters, not into nothing. (Of any other task the ledger knows what is left.)
@shared_task(**push.RETRY, acks_on_failure_or_timeout=False)
def notify_absent(notices: list[Any]) -> None:
    """For each Notice, as delivery.py makes them: a push to every device of those who have to be told."""
    if notify.notify_each(msgspec.convert(notices, list[Notice]), timezone.now()):
        send_due()


@shared_task
def send_due() -> None:
    """Hand what is due to the workers, as much as the broker should hold."""
    while due := ledger.take_due(DUE_AT_ONCE, timezone.now()):
        _hand_over(deque(itertools.chain.from_iterable(map(_per_task, due.values()))))


def _per_task(push_ids: list[UUID]) -> list[list[UUID]]:
    """Of one platform: a task waits for all its pushes, and those of another provider shall not wait with them."""
    return [push_ids[start : start + PER_TASK] for start in range(0, len(push_ids), PER_TASK)]


def _hand_over(waiting: deque[list[UUID]]) -> None:
    try:
        while waiting:
            send_pushes.delay([str(push_id) for push_id in waiting[0]])
            waiting.popleft()
    finally:
        if waiting:  # the broker is away: not when a task would be taken for lost, but when there is a broker
            ledger.put_back([push_id for push_ids in waiting for push_id in push_ids], timezone.now())


@shared_task
def send_pushes(push_ids: list[str]) -> None:
    """Try those of these pushes that are (still) to be tried. They share the SQL; each has its own outcome."""
    if attempts := ledger.claim([UUID(push_id) for push_id in push_ids], timezone.now()):
        sending.send(*composing.compose(attempts))


@shared_task
def sweep() -> None:
    """Whoever was missed: see notify.sweep."""
    try:
        notify.sweep(timezone.now())
    except (Unavailable, RedisError) as error:
        logger.warning("the next sweep finds who was missed, as a store is away: %s", error)
    send_due()


@worker_shutdown.connect
@worker_process_shutdown.connect
def close_connections(**_: object) -> None:
    background.close()

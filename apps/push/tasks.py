"""What workers do besides sending: the outbox that waits for a broker, and the ledger's old rows and numbers."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from apps.push import ledger, metrics, outbox, services

# Whatever goes wrong may be right a moment later; what is not after an hour or so is a dead letter.
RETRY: dict[str, Any] = {
    "autoretry_for": (Exception,),
    "retry_backoff": True,
    "retry_backoff_max": 60,
    "retry_jitter": True,
    "max_retries": 60,
}


@shared_task
def redrive_outbox() -> int:
    return outbox.redrive()


@shared_task
def purge_ledger() -> int:
    return ledger.purge(timezone.now())


@shared_task
def remove_devices_of_ended_sessions() -> None:
    services.remove_devices_of_ended_sessions()


@shared_task
def count_pushes() -> None:
    open_pushes, dead = ledger.counts()
    metrics.open_pushes.set(open_pushes)
    metrics.dead_pushes.set(dead)

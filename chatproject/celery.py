"""The workers' application: quorum queues on RabbitMQ, or the embedded Redis-protocol store, by BROKER_URL."""

import os
import sys
from typing import Any

from celery import Celery
from celery.signals import task_postrun, worker_ready
from django.conf import settings
from kombu import Exchange, Queue
from prometheus_client import start_http_server

from apps.accounts.aio import give_back_connection
from apps.push import dead_letters

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings.base")

app = Celery("chatproject")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["apps.push", "apps.conversations"])

_on_rabbitmq = settings.BROKER_URL.startswith("amqp")
_quorum = {"x-queue-type": "quorum"} if _on_rabbitmq else {}
# Native delayed delivery on RabbitMQ needs a topic exchange. On Redis an exchange is a set of names in Redis: when that
# is emptied, what is published afterwards vanishes. The nameless exchange goes straight to the queue.
_exchange = Exchange("push", type="topic", durable=True) if _on_rabbitmq else Exchange("", type="direct")


@worker_ready.connect
def declare_dead_letters(**_: object) -> None:
    """Where RabbitMQ puts what was tried too often."""
    dead_letters.declare()


@worker_ready.connect
def drain_outbox(**_: object) -> None:
    """What waits there waits for this worker, or for the beat after it."""
    app.send_task("apps.push.tasks.redrive_outbox")


@worker_ready.connect
def serve_metrics(**_: object) -> None:
    """Of this process, whose threads do the work."""
    if settings.METRICS_PORT:
        start_http_server(settings.METRICS_PORT, addr="127.0.0.1")


@task_postrun.connect
def give_back(sender: Any, **_: object) -> None:
    """As elsewhere; Celery's own way is to close it before and after each task."""
    if not sender.request.is_eager:
        give_back_connection()


app.conf.update(
    CELERY_DB_REUSE_MAX=sys.maxsize,  # see give_back
    broker_url=settings.BROKER_URL,
    broker_connection_timeout=2,
    broker_connection_retry_on_startup=True,
    # On RabbitMQ a publish without confirmation may vanish; on Redis a task unacknowledged for so long runs again.
    broker_transport_options={"confirm_publish": True}
    if _on_rabbitmq
    else {"visibility_timeout": 300, "socket_timeout": 5},
    task_queues=[
        Queue(
            "push",
            _exchange,
            routing_key="push",
            queue_arguments=_quorum
            and {
                **_quorum,
                "x-delivery-limit": 10,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": dead_letters.NAME,
            },
        ),
    ],
    task_default_queue="push",
    task_default_exchange=_exchange.name,
    task_default_exchange_type=_exchange.type,
    task_default_routing_key="push",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2},
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_proc_alive_timeout=30,
    control_queue_exclusive=False,
    control_queue_durable=True,
    event_queue_exclusive=False,
    event_queue_durable=True,
    # Each is done by the next run as well: while no worker runs, they need not pile up.
    beat_schedule={
        name: {"task": task, "schedule": seconds, "options": {"expires": max(5, seconds)}}
        for name, task, seconds in (
            ("send-due", "apps.conversations.tasks.send_due", 1.0),
            ("redrive-outbox", "apps.push.tasks.redrive_outbox", 10.0),
            ("sweep", "apps.conversations.tasks.sweep", 30.0),
            ("count-pushes", "apps.push.tasks.count_pushes", 15.0),
            ("ended-sessions", "apps.push.tasks.remove_devices_of_ended_sessions", 3_600.0),
            ("purge-ledger", "apps.push.tasks.purge_ledger", 3_600.0),
        )
    },
)

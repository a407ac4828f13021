"""The workers' application, where it is not Celery's."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from celery.app.trace import build_tracer
from celery.fixups.django import DjangoWorkerFixup
from django.db import DatabaseError, connection, connections

from chatproject.celery import app


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="PostgreSQL's go back to a pool")
def test_a_workers_thread_keeps_its_connection_to_sqlite_until_an_error() -> None:
    used: list[Any] = []

    def ask(statement: str) -> None:
        with connection.cursor() as cursor:
            used.append(connection.connection)
            cursor.execute(statement)

    with a_thread_of_a_worker() as run, as_task(ask) as task:
        for statement in ("SELECT 1", "SELECT 1", "SELECT nothing FROM nowhere", "SELECT 1"):
            run(task, statement)
        run(connections.close_all)

    first, second, broken, fresh = used
    assert first is second is broken
    assert fresh is not broken


@contextmanager
def a_thread_of_a_worker() -> Iterator[Callable[..., Any]]:
    fixup = DjangoWorkerFixup(app)  # what a worker does at its start; Celery hears its signals as long as it lives
    with ThreadPoolExecutor(1) as thread:
        thread.submit(fixup.install).result()
        yield lambda function, *args: thread.submit(function, *args).result()


@contextmanager
def as_task(function: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """As a worker calls it when a message has come."""
    task = app.task(function, name="as_task", throws=(DatabaseError,))
    tracer = build_tracer(task.name, task, app=app)
    try:
        yield lambda argument: tracer(str(uuid4()), [argument], {}, {"is_eager": False})
    finally:
        del app.tasks[task.name]

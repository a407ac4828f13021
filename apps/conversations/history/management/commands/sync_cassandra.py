"""django-cassandra-engine's command, and an end to its connection: or the process hangs for seconds when it ends."""

from typing import Any

from django.db import connections
from django_cassandra_engine.management.commands import sync_cassandra


class Command(sync_cassandra.Command):  # type: ignore[misc]
    help = "Create or complete the keyspace and the tables of the history in Cassandra."

    def handle(self, **options: Any) -> None:
        try:
            super().handle(**options)
        finally:
            connections["cassandra"].connection.unregister()

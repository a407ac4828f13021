"""Django's models live in the relational database; Cassandra has only the log, which the ORM never touches."""

from typing import Any


class OnlyTheDefaultDatabase:
    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == "default"

"""The history of this process, on the store that the settings name."""

import asyncio

from django.conf import settings

from apps.accounts.aio import per_loop
from apps.conversations.history.base import HistoryStore
from apps.conversations.history.cassandra import CassandraHistory
from apps.conversations.history.group_commit import History
from apps.conversations.history.sqlite import SqliteHistory


class _Log:
    def __init__(self) -> None:
        self.history = History(store_from_settings())
        self.started = False
        self.starting = asyncio.Lock()


_log = per_loop(_Log)


def store_from_settings() -> HistoryStore:
    if settings.CASSANDRA_URL:
        return CassandraHistory(settings.CASSANDRA_URL)
    return SqliteHistory(settings.HISTORY_PATH)


async def log() -> History:
    """The running loop's history, connected. Raises Unavailable when the store does not answer; the next call tries again."""
    this = _log()
    if not this.started:
        async with this.starting:
            if not this.started:
                await this.history.start()
                this.started = True
    return this.history

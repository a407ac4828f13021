"""The history on the store that the settings name, one per event loop: connections belong to their loop."""

import asyncio
from collections.abc import Sequence

from django.conf import settings

from apps.accounts.aio import per_loop
from apps.conversations.errors import Unavailable
from apps.conversations.history.audit import AuditedStore
from apps.conversations.history.cassandra import CassandraHistory
from apps.conversations.history.group_commit import History
from apps.conversations.history.one_writer import CannotWrite
from apps.conversations.history.sqlite import SqliteHistory
from apps.conversations.messages import Draft, Message
from apps.presence.exchange import Exchange
from apps.presence.registry import Registry


class _Log:
    """The history of one event loop, and its connecting: those who ask meanwhile share one attempt and its outcome."""

    def __init__(self) -> None:
        self.history = History(store_from_settings())
        self.started: asyncio.Task[None] | None = None

    async def connected(self) -> History:
        if self.started is None or (self.started.done() and _failed(self.started)):
            self.started = asyncio.create_task(self.history.start())
        if not self.started.done():
            await asyncio.shield(self.started)
        return self.history

    async def close(self) -> None:
        if self.started is not None:
            await asyncio.wait([self.started])
            self.started = None
            await self.history.close()


_log = per_loop(_Log)


def _failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


def store_from_settings() -> AuditedStore:
    if settings.CASSANDRA_URL:
        return CassandraHistory(settings.CASSANDRA_URL)
    return SqliteHistory(settings.HISTORY_PATH)


async def log() -> History:
    """The history, connected. Raises Unavailable when the store does not answer; the next call tries again."""
    return await _log().connected()


def attach(exchange: Exchange, registry: Registry) -> None:
    """Let the node whose these are, and the others, store for each other what several of them write at once."""

    async def append_here(drafts: Sequence[Draft], members_version: int) -> list[Message]:
        try:
            history = await log()
        except Unavailable as error:
            raise CannotWrite from error
        return await history.append_for_another(drafts, members_version)

    _log().history.attach(exchange, registry, append_here)


async def close() -> None:
    """What waits is still stored."""
    await _log().close()

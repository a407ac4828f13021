"""
The whole chat in one process, as `make run` has it: SQLite, a SQLite history, an embedded Valkey as bus and broker.

`ada`, `bob` and `eve` are people with a token, `anyone` is a client without one.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.test import AsyncClient

from apps.accounts import services as accounts
from apps.accounts.models import User
from apps.accounts.people import Person
from apps.conversations import delivery, throttle
from apps.conversations.background import background
from apps.conversations.history import log
from apps.presence import node
from chatproject.celery import app as celery_app

PASSWORD = "correct horse battery"


@pytest.fixture(scope="session")
def embedded_valkey(valkey_url: str) -> str:
    celery_app.conf.broker_url = valkey_url.removesuffix("/0") + "/1"
    return valkey_url


@pytest.fixture
async def chat(embedded_valkey: str, settings: Any, tmp_path: Path, transactional_db: None) -> AsyncIterator[None]:
    """A chat process without sockets: what REST calls."""
    redis.Redis.from_url(embedded_valkey).flushall()
    cache.clear()
    settings.REDIS_URL = embedded_valkey
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "apps.presence.bus.ChannelLayer", "CONFIG": {"url": embedded_valkey}}
    }
    settings.HISTORY_PATH = tmp_path / "history.sqlite3"
    this = node.current()
    delivery.attach(this)
    await this.start()
    yield
    await sync_to_async(background.close)()
    await this.stop()
    await (await log()).close()
    await throttle.close()


class Client:
    """One person's REST client. Paths are relative to /api/v1/."""

    def __init__(self, user: User | None = None, token: str | None = None) -> None:
        self.user = user
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = AsyncClient()

    @property
    def person(self) -> Person:
        assert self.user is not None
        return Person.of(self.user)

    async def get(self, path: str, **query: Any) -> Any:
        return await self._http.get(f"/api/v1/{path}", query, headers=self.headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return await self.send("POST", path, body, **headers)

    async def put(self, path: str, body: Any = None) -> Any:
        return await self.send("PUT", path, body)

    async def patch(self, path: str, body: Any = None) -> Any:
        return await self.send("PATCH", path, body)

    async def delete(self, path: str, body: Any = None) -> Any:
        return await self.send("DELETE", path, body)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """`body`: bytes go out as they are, everything else as JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        return await self._http.generic(
            method, f"/api/v1/{path}", data, "application/json", headers=self.headers | headers
        )


def sign_up(username: str, **fields: Any) -> Client:
    user = accounts.sign_up(username, PASSWORD, username.capitalize())
    if fields:
        User.objects.filter(id=user.id).update(**fields)
        user.refresh_from_db()
    return Client(user, accounts.issue_token(user))


@pytest.fixture
async def ada(chat: None) -> Client:
    return await sync_to_async(sign_up)("ada")


@pytest.fixture
async def bob(chat: None) -> Client:
    return await sync_to_async(sign_up)("bob")


@pytest.fixture
async def eve(chat: None) -> Client:
    """Knows nobody."""
    return await sync_to_async(sign_up)("eve")


@pytest.fixture
def anyone(chat: None) -> Client:
    """Without credentials."""
    return Client()

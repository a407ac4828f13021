from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.cache import cache
from django.test import Client

from apps.accounts.models import User
from apps.accounts.services import NODES_GROUP

PASSWORD = "correct horse battery"
NEW_PASSWORD = "staple horse battery"


@pytest.fixture(autouse=True)
def fresh_rate_limits() -> None:
    cache.clear()


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_user("ada", PASSWORD, display_name="Ada")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob", PASSWORD, display_name="Bob")


@pytest.fixture
def admin_user(db: None) -> User:
    return User.objects.create_superuser("root", PASSWORD, display_name="Root")


@pytest.fixture
def told() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the nodes have been told since the last call."""
    layer = get_channel_layer()
    async_to_sync(layer.group_add)(NODES_GROUP, "node")

    def since_then() -> list[dict[str, Any]]:
        queue = layer.channels.get("node")
        messages = []
        while queue is not None and not queue.empty():
            messages.append(queue.get_nowait()[1])
        return messages

    yield since_then
    async_to_sync(layer.flush)()


def logged_in(user: User, password: str = PASSWORD) -> Client:
    """A browser of theirs, by the login form."""
    browser = Client(HTTP_USER_AGENT="Firefox")
    answer = browser.post("/accounts/login/", {"login": user.username, "password": password})
    assert answer.status_code == 302, answer.content
    return browser


def session_key(browser: Client) -> str:
    return browser.cookies["sessionid"].value

from collections.abc import Callable
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.test import Client
from redis.exceptions import ConnectionError as RedisAway

from apps.accounts import services
from apps.accounts.identity import session_id_of
from apps.accounts.models import ApiToken, Block, User
from tests.accounts.conftest import NEW_PASSWORD, PASSWORD, logged_in, session_key

pytestmark = pytest.mark.django_db
Told = Callable[[], list[dict[str, Any]]]


def sessions_in(messages: list[dict[str, Any]]) -> set[str]:
    assert all(message["type"] == "sessions.ended" for message in messages)
    return {session for message in messages for session in message["sessions"]}


def is_logged_in(browser: Client) -> bool:
    return browser.get("/settings/").status_code == 200


def test_logging_in_tells_the_nodes_nothing(ada: User, told: Told) -> None:
    browser = Client()
    anonymous = browser.session
    anonymous["seen"] = True
    anonymous.save()
    browser.post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    assert is_logged_in(browser)
    assert told() == []


def test_logging_out_closes_the_sockets_of_that_session(ada: User, told: Told) -> None:
    browser, other = logged_in(ada), logged_in(ada)
    key = session_key(browser)
    browser.post("/accounts/logout/")
    (message,) = told()
    assert message == {"type": "sessions.ended", "sessions": [session_id_of(key)], "user_id": None, "code": 4401}
    assert not is_logged_in(browser)
    assert is_logged_in(other)


def test_a_session_ended_from_elsewhere_is_ended_at_once(ada: User, told: Told) -> None:
    browser = logged_in(ada)
    services.end_session(session_key(browser))
    assert sessions_in(told()) == {session_id_of(session_key(browser))}
    assert not is_logged_in(browser)


def test_ending_a_token_closes_its_sockets(ada: User, told: Told) -> None:
    services.issue_token(ada)
    session_id = ada.api_tokens.get().session_id
    services.end_token(ada.api_tokens.get())
    assert sessions_in(told()) == {session_id}
    assert not ApiToken.objects.exists()


def test_ending_everything_spares_only_the_session_that_asks(ada: User, bob: User, told: Told) -> None:
    asking, other, of_bob = logged_in(ada), logged_in(ada), logged_in(bob)
    services.issue_token(ada)
    token = ada.api_tokens.get()
    services.end_all_sessions(ada, except_session_key=session_key(asking))
    assert sessions_in(told()) == {session_id_of(session_key(other)), token.session_id}
    assert [is_logged_in(browser) for browser in (asking, other, of_bob)] == [True, False, True]


def test_a_deactivated_person_is_out_and_stays_out(ada: User, told: Told) -> None:
    browser, token = logged_in(ada), services.issue_token(ada)
    services.deactivate(ada)
    banned, *rest = told()
    assert (banned["user_id"], banned["code"]) == (str(ada.id), 4403)
    assert session_id_of(session_key(browser)) in sessions_in(rest)
    assert not is_logged_in(browser)
    assert Client().get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    answer = Client().post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    assert answer.url == "/accounts/inactive/"


def test_one_who_is_reactivated_may_log_in_again(ada: User) -> None:
    services.deactivate(ada)
    services.reactivate(ada)
    assert is_logged_in(logged_in(ada))


def test_a_session_ends_also_while_the_bus_is_away(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(group: str, message: dict[str, Any]) -> None:
        raise RedisAway("away")

    browser = logged_in(ada)
    monkeypatch.setattr(get_channel_layer(), "group_send", away)
    assert browser.post("/accounts/logout/").status_code == 302
    assert not is_logged_in(browser)


def test_a_new_password_ends_what_the_old_one_opened(ada: User, told: Told) -> None:
    changing, other = logged_in(ada), logged_in(ada)
    services.issue_token(ada)
    token, other_key = ada.api_tokens.get(), session_key(other)
    new = {"oldpassword": PASSWORD, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    answer = changing.post("/accounts/password/change/", new)
    assert answer.status_code == 302, answer.content
    assert {session_id_of(other_key), token.session_id} <= sessions_in(told())
    assert is_logged_in(changing)
    assert not is_logged_in(other)
    assert not ApiToken.objects.exists()
    assert is_logged_in(logged_in(ada, NEW_PASSWORD))


def test_a_block_is_one_however_often_it_is_made(ada: User, bob: User) -> None:
    for _ in range(2):
        services.block(ada.id, bob.id)
    assert Block.objects.count() == 1
    services.unblock(ada.id, bob.id)
    services.unblock(ada.id, bob.id)
    assert not Block.objects.exists()

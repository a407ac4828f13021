from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from apps.accounts import services
from apps.accounts.identity import Identity, ended, identify, session_id_of
from apps.accounts.models import User
from tests.accounts.conftest import NEW_PASSWORD, PASSWORD, logged_in, session_key

ORIGIN = "http://localhost:8000"

pytestmark = pytest.mark.django_db


def handshake(*, origin: str | None = ORIGIN, query: str = "", **headers: str) -> dict[str, Any]:
    named = {"host": "localhost:8000"} | ({} if origin is None else {"origin": origin}) | headers
    return {
        "query_string": query.encode(),
        "headers": [(name.encode(), text.encode("latin-1")) for name, text in named.items()],
    }


def who(scope: dict[str, Any]) -> Identity | None:
    (found,) = identify([scope])
    return found


def identity_of(browser: Client) -> Identity | None:
    return who(handshake(cookie=f"a=b; sessionid={session_key(browser)}"))


def test_a_browser_on_one_of_our_pages_is_who_is_logged_in(ada: User) -> None:
    found = identity_of(logged_in(ada))
    assert found is not None
    assert found.person.id == ada.id
    assert found.session_id.startswith("s-")
    assert not found.is_staff


def test_what_other_servers_on_this_host_have_set_disturbs_nobody(ada: User) -> None:
    key = session_key(logged_in(ada))
    assert who(handshake(cookie=f'prefs={{"a": "b, c"}}; [x]; sessionid={key}')) is not None


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "",
        "https://localhost:8000",
        "http://localhost",
        "http://localhost:8001",
        "http://localhost:8000.evil.example",
        "http://evil.example?http://localhost:8000",
        "http://xlocalhost:8000",
        "http://localhost:8000/",
        "HTTP://LOCALHOST:8000",
    ],
)
def test_a_browser_on_any_other_page_is_refused(ada: User, origin: str | None) -> None:
    browser = logged_in(ada)
    assert who(handshake(origin=origin, cookie=f"sessionid={session_key(browser)}")) is None


@pytest.mark.parametrize(
    "cookie", ["", "sessionid=", "sessionid=nosuchsession", "sessionid=nul\0inside", "sessionid", "\x80=;;=", "other=1"]
)
def test_a_browser_without_a_session_is_refused(db: None, cookie: str) -> None:
    assert who(handshake(cookie=cookie)) is None


def test_a_session_of_nobody_is_refused(db: None) -> None:
    browser = Client()
    session = browser.session
    session["seen"] = True
    session.save()
    assert identity_of(browser) is None


def test_a_client_with_a_token_needs_no_origin(ada: User) -> None:
    token = services.issue_token(ada)
    found = who(handshake(origin=None, authorization=f"Bearer {token}"))
    assert found is not None
    assert found.person.username == "ada"
    assert found.session_id.startswith("t-")
    assert token not in found.session_id


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer nonsense", "Basic YWRhOmFkYQ==", "Bearer \xff\xfe"]
)
def test_a_wrong_token_is_refused_whatever_else_is_shown(ada: User, header: str) -> None:
    browser = logged_in(ada)
    assert who(handshake(authorization=header, cookie=f"sessionid={session_key(browser)}")) is None


def test_many_are_identified_with_at_most_three_questions(
    ada: User, bob: User, django_assert_num_queries: Callable[[int], Any]
) -> None:
    token, of_bob = services.issue_token(ada), services.issue_token(bob)
    key = session_key(logged_in(bob))
    digest = ada.api_tokens.get().digest
    scopes = [
        handshake(authorization=f"Bearer {token}"),
        handshake(cookie="sessionid=nosuchsession"),
        handshake(cookie=f"sessionid={digest}"),  # is not that of a token, though it looks like one
        handshake(cookie=f"sessionid={key}"),
        handshake(authorization="Bearer nonsense"),
        handshake(authorization=f"Bearer {of_bob}"),
        handshake(authorization=f"Bearer {token}"),
    ]
    with django_assert_num_queries(3):
        found = identify(scopes)
    assert [each and each.person.username for each in found] == ["ada", None, None, "bob", None, "bob", "ada"]
    assert found[3] is not None
    assert found[3].session_id == session_id_of(key)


def test_a_token_in_the_url_is_no_token(ada: User) -> None:
    token = services.issue_token(ada)
    assert who(handshake(query=f"token={token}&access_token={token}&authorization=Bearer {token}")) is None


def test_nobody_is_let_in_who_is_deactivated(ada: User) -> None:
    token, browser = services.issue_token(ada), logged_in(ada)
    User.objects.filter(id=ada.id).update(is_active=False)
    assert who(handshake(authorization=f"Bearer {token}")) is None
    assert identity_of(browser) is None


def test_a_session_from_before_a_password_change_is_refused(ada: User) -> None:
    browser = logged_in(ada)
    ada.set_password(NEW_PASSWORD)
    ada.save()
    assert identity_of(browser) is None


def both_identities(user: User) -> tuple[Client, set[str], list[Identity]]:
    browser, token = logged_in(user), services.issue_token(user)
    identities = [identity_of(browser), who(handshake(authorization=f"Bearer {token}"))]
    held = [identity for identity in identities if identity is not None]
    return browser, {identity.session_id for identity in held}, held


def test_what_still_holds_has_not_ended(ada: User) -> None:
    _, _, held = both_identities(ada)
    assert ended(held) == set()


def _log_out(ada: User, browser: Client) -> None:
    browser.post("/accounts/logout/")


def _expire(ada: User, browser: Client) -> None:
    Session.objects.update(expire_date=timezone.now())


def _new_password_behind_our_back(ada: User, browser: Client) -> None:
    ada.set_password(PASSWORD + "!")
    ada.save()


@pytest.mark.parametrize("end", [_log_out, _expire, _new_password_behind_our_back])
def test_a_session_that_no_longer_holds_is_found(ada: User, end: Callable[[User, Client], None]) -> None:
    browser, _, held = both_identities(ada)
    end(ada, browser)
    assert ended(held) == {held[0].session_id}


def test_a_token_that_was_ended_is_found(ada: User) -> None:
    _, _, held = both_identities(ada)
    services.end_token(ada.api_tokens.get())
    assert ended(held) == {held[1].session_id}


def test_all_of_a_deactivated_person_has_ended_and_nothing_of_others(ada: User, bob: User) -> None:
    _, of_ada, held = both_identities(ada)
    _, _, held_by_bob = both_identities(bob)
    User.objects.filter(id=ada.id).update(is_active=False)
    assert ended([*held, *held_by_bob]) == of_ada

"""Logging in, signing up, passwords and the settings page, as a browser without JavaScript uses them."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.usersessions.models import UserSession
from django.conf import settings as django_settings
from django.core import mail
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from redis.exceptions import ConnectionError as RedisAway

from apps.accounts import services
from apps.accounts.models import ApiToken, User
from tests.accounts.conftest import NEW_PASSWORD, PASSWORD, logged_in, session_key

pytestmark = pytest.mark.django_db
NEW_PERSON = {"username": "Carol", "display_name": "Carol C", "password1": PASSWORD}


def text_of(answer: HttpResponse) -> str:
    return answer.content.decode()


# --- signing up and logging in ---------------------------------------------------------------------------------------
def test_someone_new_signs_up_and_is_logged_in() -> None:
    browser = Client()
    assert browser.get("/accounts/signup/").status_code == 200
    assert browser.post("/accounts/signup/", NEW_PERSON).status_code == 302
    carol = User.objects.get()
    assert (carol.username, carol.display_name, carol.email) == ("carol", "Carol C", "")
    assert browser.get("/settings/").status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "ada"),
        ("username", "ADA"),
        ("username", "a b"),
        ("display_name", ""),
        ("display_name", "x\u202ey"),
        ("password1", "short"),
        ("email", "no address"),
    ],
)
def test_an_error_stands_beside_its_field(ada: User, field: str, value: str) -> None:
    answer = Client().post("/accounts/signup/", NEW_PERSON | {field: value})
    assert answer.status_code == 200
    assert f'id="id_{field}_error"' in text_of(answer)
    assert User.objects.count() == 1


def test_nobody_signs_up_where_registration_is_closed(settings: Any) -> None:
    settings.CHAT_REGISTRATION_OPEN = False
    assert "No new accounts" in text_of(Client().get("/accounts/signup/"))
    Client().post("/accounts/signup/", NEW_PERSON)
    assert not User.objects.exists()


def test_signing_up_does_not_tell_whose_address_is_known(ada: User) -> None:
    Client().post("/accounts/signup/", NEW_PERSON | {"email": "c@example.org"})
    answer = Client().post("/accounts/signup/", NEW_PERSON | {"username": "dave", "email": "c@example.org"})
    assert answer.status_code == 302


def test_a_username_is_typed_in_any_case(ada: User) -> None:
    assert Client().post("/accounts/login/", {"login": "ADA", "password": PASSWORD}).status_code == 302


def test_a_failed_login_does_not_tell_whether_there_is_such_a_person(ada: User) -> None:
    pages = [
        re.sub("ada|nobody", "", text_of(Client().post("/accounts/login/", {"login": name, "password": "wrong"})))
        for name in ("ada", "nobody")
    ]
    pages = [re.sub('value="[^"]{64}"', "", page) for page in pages]  # the CSRF token
    assert pages[0] == pages[1]
    assert "not correct" in pages[0]


def test_guessing_a_password_is_soon_refused(ada: User) -> None:
    for _ in range(5):
        Client().post("/accounts/login/", {"login": "ada", "password": "wrong"})
    answer = Client().post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    assert answer.status_code == 200
    assert "Too many failed login attempts" in text_of(answer)


def test_logging_in_says_so_while_the_attempts_cannot_be_counted(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise RedisAway

    monkeypatch.setattr(cache, "get", away)
    answer = Client().post("/accounts/login/", {"login": "ada", "password": PASSWORD})
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")


def test_looking_at_the_logout_page_logs_nobody_out(ada: User) -> None:
    browser = logged_in(ada)
    assert browser.get("/accounts/logout/").status_code == 200
    assert browser.get("/settings/").status_code == 200


@pytest.mark.parametrize("path", ["/accounts/login/", "/accounts/signup/", "/accounts/password/reset/"])
def test_forms_hold_no_inline_script_or_style_and_are_not_sent_without_a_csrf_token(path: str) -> None:
    page = Client().get(path)
    assert "script-src 'self'" in page["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text_of(page))
    assert Client(enforce_csrf_checks=True).post(path, {}).status_code == 403


def test_password_managers_know_each_field() -> None:
    login, signup = text_of(Client().get("/accounts/login/")), text_of(Client().get("/accounts/signup/"))
    assert 'autocomplete="username"' in login
    assert 'autocomplete="current-password"' in login
    assert 'autocomplete="new-password"' in signup


# --- passwords and addresses -----------------------------------------------------------------------------------------
def _ask_for_a_link(address: str) -> HttpResponse:
    return Client().post("/accounts/password/reset/", {"email": address}, follow=True)


def test_a_forgotten_password_is_replaced_by_a_link_in_the_mail(ada: User) -> None:
    ada.email = "ada@example.org"
    ada.save()
    old, token = logged_in(ada), services.issue_token(ada)
    _ask_for_a_link("ada@example.org")
    link = re.search(r"http://testserver(/\S+)", mail.outbox[0].body)
    assert link is not None
    browser = Client()
    form = browser.get(link[1], follow=True)
    answer = browser.post(form.request["PATH_INFO"], {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    assert answer.status_code == 302, text_of(answer)
    assert logged_in(ada, NEW_PASSWORD)
    assert old.get("/settings/").status_code == 302
    assert Client().get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert "no longer works" in text_of(Client().get(link[1], follow=True))


def test_asking_for_a_link_does_not_tell_who_is_here(ada: User) -> None:
    ada.email = "ada@example.org"
    ada.save()
    known, unknown = _ask_for_a_link("ada@example.org"), _ask_for_a_link("eve@example.org")
    assert text_of(known) == text_of(unknown)
    assert [message.to for message in mail.outbox] == [["ada@example.org"]]


def test_changing_the_address_asks_for_the_password_once_more(ada: User) -> None:
    browser = logged_in(ada)
    assert "Email address" in text_of(browser.get("/accounts/email/", follow=True))
    answer = browser.post("/accounts/email/", {"email": "eve@example.org", "action_add": ""})
    assert answer.url.startswith("/accounts/reauthenticate/")
    assert "Is it you?" in text_of(browser.get(answer.url))
    ada.refresh_from_db()
    assert ada.email == ""


def test_an_address_counts_once_its_link_was_followed(ada: User) -> None:
    browser = logged_in(ada)
    asked = browser.post("/accounts/email/", {"email": "ada@example.org", "action_add": ""})
    browser.post(asked.url, {"password": PASSWORD})
    link = re.search(r"http://testserver(/\S+)", mail.outbox[-1].body)
    assert link is not None
    assert "ada@example.org" in text_of(browser.get(link[1]))
    assert "waits until" in text_of(browser.get("/accounts/email/"))
    browser.post(link[1])
    ada.refresh_from_db()
    assert ada.email == "ada@example.org"
    assert EmailAddress.objects.get().verified
    assert "no longer works" in text_of(Client().get("/accounts/confirm-email/nonsense/"))


# --- settings --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/settings/"),
        ("post", "/settings/profile/"),
        ("post", "/settings/tokens/"),
        ("post", "/settings/sessions/end-others/"),
        ("post", "/settings/sessions/1/end/"),
        ("post", "/settings/blocks/"),
    ],
)
def test_settings_are_for_people_who_are_logged_in(db: None, method: str, path: str) -> None:
    answer = getattr(Client(), method)(path)
    assert (answer.status_code, answer.url.split("?")[0]) == (302, "/accounts/login/")


def test_a_name_is_changed(ada: User) -> None:
    browser = logged_in(ada)
    browser.post("/settings/profile/", {"display_name": "Ada L"})
    ada.refresh_from_db()
    assert ada.display_name == "Ada L"
    refused = browser.post("/settings/profile/", {"display_name": " "})
    assert refused.status_code == 400
    assert "id_display_name_error" in text_of(refused)
    ada.refresh_from_db()
    assert ada.display_name == "Ada L"


def test_the_sessions_are_listed_and_one_of_them_is_ended(ada: User) -> None:
    browser, other = logged_in(ada), logged_in(ada)
    page = text_of(browser.get("/settings/"))
    assert page.count('<strong title="Firefox">') == 2
    assert page.count("this one") == 1
    assert session_key(other) not in page
    ended = UserSession.objects.get(session_key=session_key(other))
    browser.post(f"/settings/sessions/{ended.id}/end/")
    assert other.get("/settings/").status_code == 302
    assert text_of(browser.get("/settings/")).count('<strong title="Firefox">') == 1


def test_a_session_is_looked_at_without_writing_each_time(
    ada: User, django_assert_max_num_queries: Callable[[int], AbstractContextManager[CaptureQueriesContext]]
) -> None:
    browser = logged_in(ada)
    with django_assert_max_num_queries(10) as queries:
        browser.get("/settings/")
    assert not [query for query in queries if query["sql"].startswith(("INSERT", "UPDATE"))]
    UserSession.objects.update(last_seen_at=timezone.now() - timedelta(minutes=2))
    browser.get("/settings/")
    assert timezone.now() - UserSession.objects.get().last_seen_at < timedelta(minutes=1)


def test_ending_the_session_one_looks_from_is_logging_out(ada: User) -> None:
    browser = logged_in(ada)
    own = UserSession.objects.get()
    assert browser.post(f"/settings/sessions/{own.id}/end/").url == "/accounts/login/"
    assert browser.get("/settings/").status_code == 302


def test_all_other_sessions_are_ended_but_tokens_stay(ada: User, bob: User) -> None:
    browser, other, of_bob = logged_in(ada), logged_in(ada), logged_in(bob)
    services.issue_token(ada)
    browser.post("/settings/sessions/end-others/")
    assert [each.get("/settings/").status_code for each in (browser, other, of_bob)] == [200, 302, 200]
    assert ApiToken.objects.count() == 1


def test_nobody_ends_the_sessions_and_tokens_of_others(ada: User, bob: User) -> None:
    browser, of_bob = logged_in(ada), logged_in(bob)
    services.issue_token(bob)
    session, token = UserSession.objects.get(user=bob), ApiToken.objects.get()
    assert browser.post(f"/settings/sessions/{session.id}/end/").status_code == 404
    assert browser.post(f"/settings/tokens/{token.id}/end/").status_code == 404
    assert of_bob.get("/settings/").status_code == 200
    assert ApiToken.objects.exists()


def test_a_token_is_shown_once(ada: User) -> None:
    browser = logged_in(ada)
    answer = browser.post("/settings/tokens/", {"name": "<b>laptop"})
    shown = re.search(r'id="new-token"[^>]*value="([^"]+)"', text_of(answer))
    assert shown is not None
    assert "no-store" in answer["Cache-Control"]
    me = Client().get("/api/v1/users/me", headers={"Authorization": f"Bearer {shown[1]}"})
    assert me.json()["username"] == "ada"
    page = text_of(browser.get("/settings/"))
    assert shown[1] not in page
    assert "&lt;b&gt;laptop" in page
    browser.post(f"/settings/tokens/{ApiToken.objects.get().id}/end/")
    assert not ApiToken.objects.exists()


def test_a_token_needs_a_name_by_which_it_is_ended_later(ada: User) -> None:
    answer = logged_in(ada).post("/settings/tokens/", {"name": ""})
    assert answer.status_code == 400
    assert not ApiToken.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_person_is_blocked_and_unblocked(ada: User, bob: User) -> None:
    browser = logged_in(ada)
    assert "Bob" not in text_of(browser.get("/settings/"))
    browser.post("/settings/blocks/", {"username": "bob"})
    assert "Bob" in text_of(browser.get("/settings/"))
    browser.post("/settings/blocks/bob/end/")
    assert not ada.blocks.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("username", ["", "nobody", "ada", "x\x00y"])
def test_a_block_of_nobody_is_answered_with_a_message(ada: User, username: str) -> None:
    answer = logged_in(ada).post("/settings/blocks/", {"username": username}, follow=True)
    assert answer.status_code == 200
    assert not ada.blocks.exists()


def test_no_page_needs_what_is_not_in_the_project() -> None:
    for template in Path(django_settings.BASE_DIR, "templates").rglob("*.html"):
        assert not re.search(r"https?://", template.read_text()), template

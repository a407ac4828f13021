"""What FCM answers, and what it means here: pyfcm against a server that is true to Google's."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from apps.push.providers import fcm as module
from apps.push.providers.base import Outcome, Result
from apps.push.providers.fcm import Fcm, message_of, result_of
from tests.push.pushes import CONVERSATION, a_push
from tests.push_servers import fcm as google
from tests.push_servers.fcm import Answer, FcmServer

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FcmServer]:
    with FcmServer(tmp_path) as serving:
        yield serving


@pytest.fixture
def provider(server: FcmServer, settings: Settings) -> Fcm:
    for name, value in server.settings.items():
        setattr(settings, name, value)
    return Fcm()


# --- what is sent ----------------------------------------------------------------------------------------------------
def test_a_message_is_shown_once_per_conversation_until_it_expires(server: FcmServer, provider: Fcm) -> None:
    result = provider.send("ada's phone", a_push())
    arrived = server.wait()
    assert result == Result(Outcome.ACCEPTED, provider_id=arrived.name)
    assert arrived.token == "ada's phone"
    assert arrived.message["notification"] == {"title": "Bob", "body": "Hello, Ada!"}
    android = arrived.message["android"]
    assert android["collapse_key"] == android["notification"]["tag"] == str(CONVERSATION)
    assert android["priority"] == "HIGH"
    assert android["notification"]["notification_count"] == 3
    assert 3_590 <= int(android["ttl"].removesuffix("s")) <= 3_600
    assert arrived.message["data"] == {
        "kind": "message",
        "push_id": "22222222-2222-4222-8222-222222222222",
        "conversation_id": str(CONVERSATION),
        "seq": "7",
        "path": f"/c/{CONVERSATION}/",
        "badge": "3",
        "count": "2",
    }


def test_a_clear_shows_nothing_and_is_in_no_hurry(server: FcmServer, provider: Fcm) -> None:
    assert provider.send("t", a_push(kind="clear", title="", body="")).outcome is Outcome.ACCEPTED
    message = server.wait().message
    assert "notification" not in message
    assert message["data"]["kind"] == "clear"
    assert message["android"]["priority"] == "NORMAL"


def test_the_longest_text_in_any_script_fits(server: FcmServer, provider: Fcm) -> None:
    assert provider.send("t", a_push(title="字" * 8_000, body="😀" * 8_000)).outcome is Outcome.ACCEPTED
    assert server.wait().message["notification"]["body"].endswith("…")


def test_what_expired_meanwhile_lives_no_longer_and_nothing_lives_past_four_weeks() -> None:
    assert message_of(a_push(expires_at=NOW - timedelta(hours=1)), NOW)["android_config"]["ttl"] == "0s"
    assert message_of(a_push(expires_at=NOW + timedelta(days=90)), NOW)["android_config"]["ttl"] == "2419200s"


# --- what it answers -------------------------------------------------------------------------------------------------
BAD_FIELD = google.bad_request("message.android.ttl", "Illegal duration format")
NO_PERMISSION = google.google_error(403, "PERMISSION_DENIED", "Permission denied", [])
NO_PROJECT = google.google_error(404, "NOT_FOUND", "Requested entity was not found.", [])


@pytest.mark.parametrize(
    ("answer", "outcome", "error", "seconds"),
    [
        (google.error("UNREGISTERED"), Outcome.UNREGISTERED, "404 UNREGISTERED", None),
        (google.error("INVALID_ARGUMENT"), Outcome.REJECTED, "400 INVALID_ARGUMENT", None),
        (BAD_FIELD, Outcome.REJECTED, "400 INVALID_ARGUMENT message.android.ttl", None),
        (google.error("SENDER_ID_MISMATCH"), Outcome.REJECTED, "403 SENDER_ID_MISMATCH", None),
        (NO_PERMISSION, Outcome.MISCONFIGURED, "403 PERMISSION_DENIED", None),
        (NO_PROJECT, Outcome.MISCONFIGURED, "404 NOT_FOUND", None),
        (google.error("THIRD_PARTY_AUTH_ERROR"), Outcome.MISCONFIGURED, "401 THIRD_PARTY_AUTH_ERROR", None),
        (google.error("QUOTA_EXCEEDED"), Outcome.RETRY, "429 QUOTA_EXCEEDED", 60),
        (google.error("QUOTA_EXCEEDED", Retry_After="7"), Outcome.RETRY, "429 QUOTA_EXCEEDED", 7),
        (google.error("UNAVAILABLE", Retry_After="120"), Outcome.RETRY, "503 UNAVAILABLE", 120),
        (google.error("UNAVAILABLE"), Outcome.RETRY, "503 UNAVAILABLE", None),
        (google.error("INTERNAL"), Outcome.RETRY, "500 INTERNAL", None),
        (google.error("UNSPECIFIED_ERROR"), Outcome.RETRY, "500 UNSPECIFIED_ERROR", None),
        (Answer(502, b"<html>Bad Gateway</html>"), Outcome.RETRY, "502", None),
        (Answer(200, b"<html>Log in to this wireless network</html>"), Outcome.RETRY, "200 without a name", None),
        (Answer(302, b"", {"Location": "http://127.0.0.1:9/"}), Outcome.MISCONFIGURED, "302", None),
        (Answer(418, b"[]"), Outcome.REJECTED, "418", None),
        (Answer(400, b'{"error": "no object"}'), Outcome.REJECTED, "400", None),
        (Answer(404, b'{"error": {"details": "no list"}}'), Outcome.MISCONFIGURED, "404", None),
    ],
)
def test_each_answer_means_one_thing(
    server: FcmServer, provider: Fcm, answer: Answer, outcome: Outcome, error: str, seconds: int | None
) -> None:
    server.answers = [answer]
    result = provider.send("secret-token", a_push())
    assert (result.outcome, result.retry_after) == (outcome, seconds and timedelta(seconds=seconds))
    assert error in result.error
    assert "secret-token" not in result.error
    assert server.requests == 1, "when to try again is the task's business"


def test_retry_after_may_be_a_date(server: FcmServer, provider: Fcm) -> None:
    when = datetime.now(UTC) + timedelta(seconds=90)
    server.answers = [google.error("UNAVAILABLE", Retry_After=format_datetime(when, usegmt=True))]
    result = provider.send("t", a_push())
    assert result.retry_after is not None
    assert timedelta(seconds=80) < result.retry_after <= timedelta(seconds=90)


@pytest.mark.parametrize("header", ["soon", "-5", "", "1e9", "Tue, 99 Nov 2026 12:00:00 GMT", "٣"])
def test_a_retry_after_that_is_neither_is_none(header: str) -> None:
    assert result_of(503, header, b"", NOW).retry_after is None


def test_a_date_in_the_past_is_at_once() -> None:
    assert result_of(503, "Mon, 01 Jan 2024 00:00:00 GMT", b"", NOW).retry_after == timedelta(0)


# --- the way there ---------------------------------------------------------------------------------------------------
def test_one_access_token_serves_all_threads(server: FcmServer, provider: Fcm) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: provider.send(f"token-{n}", a_push()), range(40)))
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert len({result.provider_id for result in results}) == 40
    assert server.oauth_requests == 1
    assert server.connections <= 1 + 8, "connections are kept"


def test_an_access_token_that_was_revoked_is_replaced_within_the_call(server: FcmServer, provider: Fcm) -> None:
    provider.send("t", a_push())
    server.revoke_access()
    assert provider.send("t", a_push()).outcome is Outcome.ACCEPTED
    assert server.oauth_requests == 2


def test_a_key_that_google_does_not_know_is_for_people_to_mend(server: FcmServer, provider: Fcm) -> None:
    server.oauth_answers = [Answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})]
    result = provider.send("t", a_push())
    assert result.outcome is Outcome.MISCONFIGURED
    assert "invalid_grant" in result.error
    assert provider.send("t", a_push()).outcome is Outcome.ACCEPTED, "and mended, it goes on"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_token_endpoint_that_is_busy_is_not_asked_twice(server: FcmServer, provider: Fcm, status: int) -> None:
    server.oauth_answers = [Answer(status, {"error": "internal_failure"})]
    assert provider.send("t", a_push()).outcome is Outcome.RETRY
    assert (server.oauth_requests, server.requests) == (1, 0)


def test_access_that_is_refused_for_good_is_asked_for_once_more_and_then_left_to_people(
    server: FcmServer, provider: Fcm
) -> None:
    server.always = google.google_error(401, "UNAUTHENTICATED", "no", [])
    assert provider.send("t", a_push()).outcome is Outcome.MISCONFIGURED
    assert (server.oauth_requests, server.requests) == (2, 2)


@pytest.mark.parametrize("answer", [Answer(silent=True), Answer(cut=True), Answer(delay_s=5)])
def test_no_answer_in_time_is_unknown_and_not_failed(
    server: FcmServer, provider: Fcm, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_S", 0.3)
    server.answers = [answer]
    assert provider.send("t", a_push()).outcome is Outcome.RETRY
    assert server.wait().token == "t", "FCM may have accepted it: the same collapse key makes a second one harmless"
    assert provider.send("t", a_push()).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("answer", [Answer(silent=True), Answer(cut=True)])
def test_a_token_endpoint_that_does_not_answer_holds_nobody_up(
    server: FcmServer, provider: Fcm, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALL_S", 0.3)
    server.oauth_answers = [answer] * 4
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda n: provider.send(f"token-{n}", a_push()), range(4)))
    assert {result.outcome for result in results} <= {Outcome.RETRY, Outcome.ACCEPTED}
    assert Outcome.RETRY in {result.outcome for result in results}


def test_fcm_that_is_away_is_tried_again_and_then_there(server: FcmServer, provider: Fcm) -> None:
    provider.send("t", a_push())
    server.away()
    assert provider.send("t", a_push()).outcome is Outcome.RETRY
    server.listen()
    assert provider.send("t", a_push()).outcome is Outcome.ACCEPTED


# --- settings --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", [None, "", "[]", '{"type": "authorized_user"}', "{}"])
def test_a_file_that_is_no_service_account_is_refused_by_name(
    tmp_path: Path, settings: Settings, content: str | None
) -> None:
    path = tmp_path / "account.json"
    if content is not None:
        path.write_text(content)
    settings.FCM_SERVICE_ACCOUNT_FILE = str(path)
    with pytest.raises(ImproperlyConfigured, match="FCM_SERVICE_ACCOUNT_FILE"):
        Fcm()


def test_a_service_account_without_a_project_is_refused(server: FcmServer, settings: Settings) -> None:
    path = server.service_account()
    account = json.loads(path.read_text())
    del account["project_id"]
    path.write_text(json.dumps(account))
    settings.FCM_SERVICE_ACCOUNT_FILE = str(path)
    with pytest.raises(ImproperlyConfigured, match="project_id"):
        Fcm()

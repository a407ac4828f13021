"""What APNs answers, and what it means here: apns2 against a server that is true to Apple's."""

import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from apps.push.providers import apns as module
from apps.push.providers.apns import Apns, payload_of, result_of
from apps.push.providers.base import Outcome, Result
from tests.push.pushes import CONVERSATION, a_push
from tests.push_servers.apns import MIN_UPDATE_S, REASONS, Answer, ApnsServer

PHONE = "ab" * 32
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApnsServer]:
    with ApnsServer(tmp_path) as serving:
        yield serving


@pytest.fixture
def use(settings: Settings) -> Callable[[ApnsServer], Apns]:
    def of(server: ApnsServer) -> Apns:
        for name, value in server.settings.items():
            setattr(settings, name, int(value) if name == "APNS_PORT" else value)
        return Apns()

    return of


@pytest.fixture
def provider(server: ApnsServer, use: Callable[[ApnsServer], Apns]) -> Apns:
    return use(server)


def sent_at_once(provider: Apns, tokens: list[str]) -> list[Result]:
    with ThreadPoolExecutor(len(tokens)) as threads:
        return list(threads.map(lambda token: provider.send(token, a_push()), tokens))


def tokens(count: int) -> list[str]:
    return [f"{number:064x}" for number in range(count)]


# --- what is sent ----------------------------------------------------------------------------------------------------
def test_a_message_is_shown_once_per_conversation_until_it_expires(server: ApnsServer, provider: Apns) -> None:
    push = a_push()
    result = provider.send(PHONE, push)
    arrived = server.wait()
    assert result == Result(Outcome.ACCEPTED, provider_id=arrived.apns_id)
    assert arrived.token == PHONE
    assert arrived.payload["aps"] == {
        "alert": {"title": "Bob", "body": "Hello, Ada!"},
        "badge": 3,
        "sound": "default",
        "thread-id": str(CONVERSATION),
    }
    assert arrived.payload["chat"]["path"] == f"/c/{CONVERSATION}/"
    assert arrived.payload["chat"]["seq"] == 7
    assert arrived.headers["apns-push-type"] == "alert"
    assert arrived.headers["apns-collapse-id"] == str(CONVERSATION)
    assert arrived.headers["apns-expiration"] == str(int(push.expires_at.timestamp()))
    assert arrived.headers.get("apns-priority", "10") == "10"


def test_a_clear_shows_nothing_and_is_in_no_hurry(server: ApnsServer, provider: Apns) -> None:
    assert provider.send(PHONE, a_push(kind="clear", title="", body="")).outcome is Outcome.ACCEPTED
    arrived = server.wait()
    assert arrived.payload["aps"] == {"content-available": 1}
    assert arrived.payload["chat"]["kind"] == "clear"
    assert arrived.payload["chat"]["badge"] == 3
    assert (arrived.headers["apns-push-type"], arrived.headers["apns-priority"]) == ("background", "5")


def test_the_longest_text_in_any_script_fits(server: ApnsServer, provider: Apns) -> None:
    assert provider.send(PHONE, a_push(title="字" * 8_000, body="😀" * 8_000)).outcome is Outcome.ACCEPTED
    assert server.wait().payload["aps"]["alert"]["body"].endswith("…")


def test_half_a_character_breaks_nothing(server: ApnsServer, provider: Apns) -> None:
    assert provider.send(PHONE, a_push(title="\ud83d", body="\udfffx")).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("length", [1_023, 1_024, 1_025, 2_048])
def test_a_payload_of_any_length_is_sent_to_its_end(
    server: ApnsServer, provider: Apns, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 2.0)
    monkeypatch.setattr(module, "MAX_BODY_CHARS", 4_000)
    spare = length - len(json.dumps(payload_of(a_push(body="x")).dict(), separators=(",", ":"))) + 1
    assert provider.send(PHONE, a_push(body="x" * spare)).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("token", ["", "xyz", "ab" * 31, f"{'ab' * 32}/../x", f"{'ab' * 32}\r\nx: y", "é" * 64])
def test_what_is_no_device_token_does_not_get_as_far_as_the_path(
    server: ApnsServer, provider: Apns, token: str
) -> None:
    assert provider.send(token, a_push()).outcome is Outcome.REJECTED
    assert server.connections == 0


# --- what it answers -------------------------------------------------------------------------------------------------
MEANING = {
    **dict.fromkeys(REASONS, Outcome.REJECTED),
    **dict.fromkeys(("Unregistered", "ExpiredToken"), Outcome.UNREGISTERED),
    **dict.fromkeys(("TooManyRequests", "TooManyProviderTokenUpdates", "IdleTimeout"), Outcome.RETRY),
    **dict.fromkeys(("InternalServerError", "ServiceUnavailable", "Shutdown"), Outcome.RETRY),
    **dict.fromkeys(("BadTopic", "MissingTopic", "TopicDisallowed"), Outcome.MISCONFIGURED),
    **dict.fromkeys((reason for reason, status in REASONS.items() if status == 403), Outcome.MISCONFIGURED),
}


def test_each_reason_means_one_thing(server: ApnsServer, provider: Apns) -> None:
    for reason in REASONS.keys() - {"ExpiredProviderToken"}:  # that one has tests of its own
        server.answers = [Answer(reason, timestamp_ms=1_795_521_600_000)]
        result = provider.send(PHONE, a_push())
        assert (reason, result.outcome) == (reason, MEANING[reason])
        assert result.error == f"{REASONS[reason]} {reason}"
        assert (result.unregistered_at is not None) == (result.outcome is Outcome.UNREGISTERED)
    assert server.connections == 1
    assert server.requests == len(REASONS) - 1, "when to try again is the task's business"


def test_a_dead_token_is_told_with_the_time_of_its_death(server: ApnsServer, provider: Apns) -> None:
    server.answers = [Answer("Unregistered", timestamp_ms=1_795_521_600_000)]
    assert provider.send(PHONE, a_push()).unregistered_at == NOW


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer("TooManyRequests", headers={"retry-after": "30"}), Outcome.RETRY),
        (Answer(status=503, body=b"<html>", headers={"retry-after": "30"}), Outcome.RETRY),
        (Answer(status=410, body=b"<html>", headers={"retry-after": "30"}), Outcome.RETRY),
    ],
)
def test_retry_after_is_heeded_and_a_410_of_somebody_else_deletes_nothing(
    server: ApnsServer, provider: Apns, answer: Answer, outcome: Outcome
) -> None:
    server.answers = [answer]
    result = provider.send(PHONE, a_push())
    assert (result.outcome, result.retry_after) == (outcome, timedelta(seconds=30))


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"reason": 7}', b'{"timestamp": "x"}'])
def test_an_answer_that_is_not_apples_is_judged_by_its_status(body: bytes) -> None:
    assert result_of(500, {}, body, NOW).outcome is Outcome.RETRY
    assert result_of(403, {}, body, NOW).outcome is Outcome.MISCONFIGURED
    assert result_of(400, {}, body, NOW).outcome is Outcome.REJECTED


# --- the provider token ----------------------------------------------------------------------------------------------
def test_one_provider_token_and_one_connection_serve_all_threads(server: ApnsServer, provider: Apns) -> None:
    server.answer_time_s = 0.02
    results = [result for _ in range(3) for result in sent_at_once(provider, tokens(32))]
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert len({result.provider_id for result in results}) == 96
    assert (server.connections, len(server.provider_tokens)) == (1, 1)
    assert server.most_open > 8


def test_a_provider_token_that_expired_is_replaced_once_for_all_who_used_it(server: ApnsServer, provider: Apns) -> None:
    provider.send(PHONE, a_push())
    server.clock = lambda: time.time() + MIN_UPDATE_S
    server.answers = [Answer("ExpiredProviderToken", delay_s=0.2) for _ in range(8)]
    results = sent_at_once(provider, tokens(8))
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert len(server.provider_tokens) == 2


def test_a_clock_that_is_wrong_is_for_people_to_mend(server: ApnsServer, provider: Apns) -> None:
    server.clock = lambda: time.time() + 7_200
    result = provider.send(PHONE, a_push())
    assert result == Result(Outcome.MISCONFIGURED, error="403 ExpiredProviderToken")
    assert server.requests == 2


def test_workers_come_with_the_same_token_and_so_does_one_that_starts_again(
    server: ApnsServer, use: Callable[[ApnsServer], Apns]
) -> None:
    workers = [use(server) for _ in range(3)]
    assert {worker.send(PHONE, a_push()).outcome for worker in workers} == {Outcome.ACCEPTED}
    assert len(server.provider_tokens) == 1


def test_a_token_is_the_same_whoever_makes_it_within_a_half_hour_and_renewed_once_for_all(
    server: ApnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_795_521_600.0 + 60]
    monkeypatch.setattr(time, "time", lambda: now[0])
    first, second = (module._Credentials(server.key_id, server.team_id, server.key) for _ in range(2))
    refused = first.get_authorization_header(None)
    now[0] += 25 * 60
    assert second.get_authorization_header(None) == refused
    first.renew(refused)
    renewed = first.get_authorization_header(None)
    assert renewed != refused
    now[0] += 1
    first.renew(refused)  # another push that had it
    assert first.get_authorization_header(None) == renewed


def test_over_a_day_apple_sees_a_new_token_no_more_often_than_it_wants_and_none_that_is_too_old(
    server: ApnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_795_521_600.0 + 1_234]
    monkeypatch.setattr(time, "time", lambda: now[0])
    server.clock = lambda: now[0]
    credentials = module._Credentials(server.key_id, server.team_id, server.key)
    while now[0] < 1_795_521_600 + 24 * 3_600:
        server._check_provider_token(credentials.get_authorization_header(None))
        now[0] += 61
    assert 45 <= len(server.provider_tokens) <= 48


def test_a_worker_with_a_token_of_its_own_that_comes_too_soon_has_to_wait(
    server: ApnsServer, use: Callable[[ApnsServer], Apns]
) -> None:
    first, second = use(server), use(server)
    assert first.send(PHONE, a_push()).outcome is Outcome.ACCEPTED
    credentials = second._courier._credentials
    credentials._issue(int(time.time()) - 1)
    assert second.send(PHONE, a_push()) == Result(Outcome.RETRY, error="429 TooManyProviderTokenUpdates")


@pytest.mark.parametrize("name", ["team_id", "key_id"])
def test_a_key_that_apple_does_not_know_is_for_people_to_mend(server: ApnsServer, provider: Apns, name: str) -> None:
    setattr(server, name, "OTHER67890")
    assert provider.send(PHONE, a_push()) == Result(Outcome.MISCONFIGURED, error="403 InvalidProviderToken")


# --- the connection --------------------------------------------------------------------------------------------------
def test_there_are_never_more_streams_than_apple_allows(tmp_path: Path, use: Callable[[ApnsServer], Apns]) -> None:
    with ApnsServer(tmp_path, max_streams=3) as server:
        server.answer_time_s = 0.01
        results = sent_at_once(use(server), tokens(20))
        assert {result.outcome for result in results} == {Outcome.ACCEPTED}
        assert (server.most_open, server.connections) == (3, 1)


@pytest.mark.parametrize("answer", [Answer(goaway=True), Answer(cut=True)])
def test_what_was_on_a_connection_that_ends_goes_again_on_the_next(
    server: ApnsServer, provider: Apns, answer: Answer
) -> None:
    provider.send(PHONE, a_push())
    server.always = Answer(delay_s=0.3)
    server.answers_to = {tokens(8)[7]: [answer]}
    results = sent_at_once(provider, tokens(8))
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [(Answer(goaway=True), "GOAWAY"), (Answer(cut=True), "Connection"), (Answer(reset=True), "the stream was reset")],
)
def test_what_never_gets_an_answer_is_unknown_and_not_failed(
    server: ApnsServer, provider: Apns, answer: Answer, error: str
) -> None:
    server.always = answer
    result = provider.send(PHONE, a_push())
    assert result.outcome is Outcome.RETRY
    assert error in result.error
    server.always = None
    assert provider.send(PHONE, a_push()).outcome is Outcome.ACCEPTED


def test_a_connection_that_apple_closed_meanwhile_is_noticed_before_the_next_push(
    server: ApnsServer, provider: Apns
) -> None:
    provider.send(PHONE, a_push())
    server.goaway()
    assert [provider.send(PHONE, a_push()).outcome for _ in range(3)] == [Outcome.ACCEPTED] * 3
    assert server.connections == 2


def test_a_silent_server_holds_nobody_up(server: ApnsServer, provider: Apns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.5)
    server.always = Answer(silent=True)
    results = sent_at_once(provider, tokens(4))
    assert {result.outcome for result in results} == {Outcome.RETRY}
    server.always = None
    assert provider.send(PHONE, a_push()).outcome is Outcome.ACCEPTED
    assert server.connections == 2, "a silent connection is not used again"


def test_an_answer_that_comes_too_late_disturbs_nobody(
    server: ApnsServer, provider: Apns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.5)
    server.answers_to = {PHONE: [Answer("Unregistered", delay_s=0.7)]}
    with ThreadPoolExecutor(1) as thread:
        late = thread.submit(provider.send, PHONE, a_push())
        outcomes = []
        while not late.done() or len(outcomes) < 50:
            outcomes.append(provider.send(tokens(1)[0], a_push()).outcome)
        assert late.result() == Result(Outcome.RETRY, error="no answer in time")
    until = time.monotonic() + 0.4  # the late answer is among these
    while time.monotonic() < until:
        outcomes.append(provider.send(tokens(1)[0], a_push()).outcome)
    assert set(outcomes) == {Outcome.ACCEPTED}
    assert server.connections == 1


def test_apns_that_is_away_is_tried_again_and_then_there(server: ApnsServer, provider: Apns) -> None:
    provider.send(PHONE, a_push())
    server.away()
    results = sent_at_once(provider, tokens(4))
    assert {result.outcome for result in results} == {Outcome.RETRY}
    server.listen()
    assert provider.send(PHONE, a_push()).outcome is Outcome.ACCEPTED


def test_a_port_that_never_shakes_hands_holds_nobody_up(
    server: ApnsServer, provider: Apns, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        settings.APNS_PORT = deaf.getsockname()[1]
        result = Apns().send(PHONE, a_push())
    assert result.outcome is Outcome.RETRY
    assert "no connection" in result.error


def test_a_server_without_http_2_is_not_apns(server: ApnsServer, provider: Apns) -> None:
    server.tls.set_alpn_protocols(["http/1.1"])
    assert "HTTP/2" in provider.send(PHONE, a_push()).error


def test_a_server_that_we_do_not_trust_is_for_people_to_look_at(
    server: ApnsServer, provider: Apns, settings: Settings
) -> None:
    settings.APNS_CA_FILE = ""
    result = Apns().send(PHONE, a_push())
    assert result.outcome is Outcome.MISCONFIGURED
    assert server.requests == 0


def test_a_courier_that_has_gone_can_be_told_to_stop(provider: Apns) -> None:
    """It may see by itself that it is to stop, before it is rung for."""
    provider._courier.stop()
    provider._courier.stop()


def test_the_courier_goes_with_its_provider(server: ApnsServer, use: Callable[[ApnsServer], Apns]) -> None:
    before = set(threading.enumerate())
    provider = use(server)
    provider.send(PHONE, a_push())
    (courier,) = set(threading.enumerate()) - before
    del provider
    gc.collect()
    courier.join(5)
    assert not courier.is_alive()


# --- settings --------------------------------------------------------------------------------------------------------
def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    encryption = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: b"",
        lambda: b"-----BEGIN PRIVATE KEY-----\nnope\n-----END PRIVATE KEY-----\n",
        lambda: pem(ec.generate_private_key(ec.SECP384R1())),
        lambda: pem(rsa.generate_private_key(public_exponent=65_537, key_size=2_048)),
    ],
)
def test_a_file_that_is_no_key_of_apples_is_refused_by_name(
    tmp_path: Path, settings: Settings, make: Callable[[], bytes | None]
) -> None:
    content = make()
    if content is not None:
        (tmp_path / "key.p8").write_bytes(content)
    settings.APNS_KEY_FILE = str(tmp_path / "key.p8")
    with pytest.raises(ImproperlyConfigured, match="APNS_KEY_FILE"):
        Apns()


def test_authorities_that_are_not_there_are_refused_by_name(
    server: ApnsServer, provider: Apns, settings: Settings
) -> None:
    settings.APNS_CA_FILE = "/nowhere/ca.pem"
    with pytest.raises(ImproperlyConfigured, match="APNS_CA_FILE"):
        Apns()

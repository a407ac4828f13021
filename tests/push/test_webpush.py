"""Web Push, against a service that checks everything: what arrives, what each answer means, where it never connects."""

import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from apps.push import vapid
from apps.push.notification import Push
from apps.push.providers import made, outside, provider_for, webpush
from apps.push.providers.base import Outcome
from apps.push.providers.outside import Answer
from apps.push.providers.webpush import WebPush
from apps.push.subscription import BadSubscription, Subscription, registrable
from apps.push.vapid_key import new_private_key
from chatproject import supervisor
from tests.embedded import Client
from tests.push_servers.webpush import Browser, WebPushService

CONVERSATION = UUID("0b1e7f52-4c39-4ad3-9a8e-0f4ec2a3b111")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPushService]:
    with WebPushService(tmp_path_factory.mktemp("webpush")) as service:
        yield service


@pytest.fixture
def service(running: WebPushService, settings: Any) -> Iterator[WebPushService]:
    """One that the settings let us reach."""
    settings.WEBPUSH_PRIVATE_KEY = new_private_key()
    settings.WEBPUSH_CONTACT = "mailto:admin@example.org"
    settings.WEBPUSH_CA_FILE = str(running.certificate.certificate)
    settings.WEBPUSH_ALLOW_PRIVATE = True
    yield running
    running.answers.clear()
    running.always = None
    running.arrived.queue.clear()


@pytest.fixture
def laptop(service: WebPushService) -> Browser:
    return service.subscribe(vapid.public_key())


@pytest.fixture
def provider(service: WebPushService) -> Iterator[WebPush]:
    provider = WebPush()
    yield provider
    provider._outside.close()


def a_push(**changes: Any) -> Push:
    given: dict[str, Any] = {
        "push_id": uuid4(), "kind": "message", "conversation_id": CONVERSATION, "seq": 42, "title": "Ada Lovelace",
        "body": "see you at noon 🕛", "path": f"/c/{CONVERSATION}/", "badge": 3, "count": 2,
        "expires_at": datetime.now(UTC) + timedelta(hours=1),
    }  # fmt: skip
    return Push(**given | changes)


# --- what arrives ----------------------------------------------------------------------------------------------------
def test_a_push_arrives_encrypted_and_signed(provider: WebPush, service: WebPushService, laptop: Browser) -> None:
    push = a_push()
    result = provider.send(laptop.token, push)
    assert (result.outcome, result.error) == (Outcome.ACCEPTED, "")
    arrived = service.wait()
    assert arrived.payload == {
        "push_id": str(push.push_id), "kind": "message", "conversation_id": str(CONVERSATION), "seq": 42,
        "title": "Ada Lovelace", "body": "see you at noon 🕛", "path": f"/c/{CONVERSATION}/", "badge": 3, "count": 2,
    }  # fmt: skip
    assert arrived.claims["sub"] == "mailto:admin@example.org"
    assert 3_590 <= int(arrived.headers["ttl"]) <= 3_600
    assert arrived.headers["urgency"] == "high"
    assert result.provider_id


def test_pushes_of_one_conversation_replace_each_other(
    provider: WebPush, service: WebPushService, laptop: Browser
) -> None:
    for push in (a_push(), a_push(kind="clear", title="", body=""), a_push(conversation_id=uuid4())):
        assert provider.send(laptop.token, push).outcome is Outcome.ACCEPTED
    message, clear, other = (service.wait() for _ in range(3))
    assert message.headers["topic"] == clear.headers["topic"] != other.headers["topic"]
    assert len(message.headers["topic"]) <= 32
    assert (clear.payload["kind"], clear.headers["urgency"]) == ("clear", "low")


@pytest.mark.parametrize("character", ["x", "ä", "🕛", '"', "\u2060", "\x01"])
def test_whatever_is_said_fits(provider: WebPush, service: WebPushService, laptop: Browser, character: str) -> None:
    push = a_push(title=character * 300, body=character * 8_000)
    assert provider.send(laptop.token, push).outcome is Outcome.ACCEPTED
    payload = service.wait().payload
    assert payload["body"].startswith(character * 300)
    assert payload["body"].endswith("…")


def test_a_push_that_is_late_is_not_kept_by_the_service(
    provider: WebPush, service: WebPushService, laptop: Browser
) -> None:
    assert provider.send(laptop.token, a_push(expires_at=NOW - timedelta(days=1))).outcome is Outcome.ACCEPTED
    assert service.wait().headers["ttl"] == "0"


def test_pushes_to_one_service_share_a_connection(provider: WebPush, service: WebPushService, laptop: Browser) -> None:
    before = service.connections
    for _ in range(3):
        assert provider.send(laptop.token, a_push()).outcome is Outcome.ACCEPTED
    assert service.connections == before + 1


def test_a_connection_that_the_service_has_closed_meanwhile_costs_nothing(
    provider: WebPush, service: WebPushService, laptop: Browser
) -> None:
    assert provider.send(laptop.token, a_push()).outcome is Outcome.ACCEPTED
    service.next_answer(cut=True)  # as the next request on the old connection finds it
    assert provider.send(laptop.token, a_push()).outcome is Outcome.ACCEPTED


def test_safari_is_sent_nothing_that_it_would_not_show(
    provider: WebPush, laptop: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def post(self: object, host: str, *_: Any) -> Answer:
        asked.append(host)
        return Answer(201, "", {})

    monkeypatch.setattr(outside.Outside, "post", post)
    token = json.dumps(laptop.subscription | {"endpoint": "https://web.push.apple.com/x"})
    clear = provider.send(token, a_push(kind="clear", title="", body=""))
    assert (clear.outcome, asked) == (Outcome.ACCEPTED, [])
    assert "not sent" in clear.error
    assert provider.send(token, a_push()).outcome is Outcome.ACCEPTED
    assert asked == ["web.push.apple.com"]


# --- what each answer means ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.ACCEPTED), (201, Outcome.ACCEPTED), (202, Outcome.ACCEPTED),
        (301, Outcome.REJECTED), (307, Outcome.REJECTED),
        (400, Outcome.REJECTED), (401, Outcome.REJECTED), (403, Outcome.REJECTED),
        (404, Outcome.UNREGISTERED), (408, Outcome.RETRY), (410, Outcome.UNREGISTERED), (413, Outcome.REJECTED),
        (429, Outcome.RETRY), (500, Outcome.RETRY), (502, Outcome.RETRY), (503, Outcome.RETRY),
    ],
)  # fmt: skip
def test_each_answer_has_its_meaning(
    provider: WebPush, service: WebPushService, laptop: Browser, status: int, outcome: Outcome
) -> None:
    requests = service.requests
    service.next_answer(status, headers={"Location": f"{service.origin}/elsewhere"}, body=b"because")
    result = provider.send(laptop.token, a_push())
    assert result.outcome is outcome
    assert result.error == ("" if outcome is Outcome.ACCEPTED else f"{status} because")
    assert service.requests == requests + 1  # no redirect is followed, and nothing is tried again here


def test_a_subscription_that_ended_is_unregistered(provider: WebPush, service: WebPushService, laptop: Browser) -> None:
    service.unsubscribe(laptop)
    assert provider.send(laptop.token, a_push()).outcome is Outcome.UNREGISTERED


@pytest.mark.parametrize(
    ("known", "outcome"), [((".127.0.0.1",), Outcome.MISCONFIGURED), ((".example.org",), Outcome.REJECTED)]
)
def test_another_key_than_the_browser_subscribed_to_is_our_mistake_by_the_word_of_a_known_service(
    provider: WebPush, laptop: Browser, settings: Any, monkeypatch: pytest.MonkeyPatch, known: Any, outcome: Outcome
) -> None:
    settings.WEBPUSH_PRIVATE_KEY = new_private_key()
    monkeypatch.setattr(webpush, "WELL_KNOWN", known)
    assert provider.send(laptop.token, a_push()).outcome is outcome


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("host", "outcome"),
    [
        ("fcm.googleapis.com", Outcome.MISCONFIGURED),
        ("updates.push.services.mozilla.com", Outcome.MISCONFIGURED),
        ("web.push.apple.com", Outcome.MISCONFIGURED),
        ("db5p.notify.windows.com", Outcome.MISCONFIGURED),
        ("evil-fcm.googleapis.com", Outcome.REJECTED),
        ("push.apple.com.example.org", Outcome.REJECTED),
        ("notpush.apple.com", Outcome.REJECTED),
        ("example.org", Outcome.REJECTED),
    ],
)
def test_who_may_say_that_our_key_is_wrong(host: str, outcome: Outcome, status: int) -> None:
    assert webpush.result_of(Answer(status, "", {}), host, NOW).outcome is outcome


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120), ("0", 0), ("Tue, 24 Nov 2026 12:05:00 GMT", 300), ("Tue, 24 Nov 2026 11:00:00 GMT", 0),
        ("Tue, 24 Nov 2026 12:05:00 -0000", 300), ("soon", None), ("", None), ("-5", None), ("1e3", None),
    ],
)  # fmt: skip
def test_a_pause_is_told_in_seconds_or_as_a_date(header: str, seconds: int | None) -> None:
    pause = webpush.result_of(Answer(429, "", {"retry-after": header}), "example.org", NOW).retry_after
    assert pause == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize("how", [{"silent": True}, {"dripping": True}, {"delay_s": 30}])
def test_a_service_that_takes_its_time_is_not_waited_for(
    provider: WebPush, service: WebPushService, laptop: Browser, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    monkeypatch.setattr(outside, "ANSWER_S", 0.5)
    service.next_answer(**how)
    started = time.monotonic()
    result = provider.send(laptop.token, a_push())
    assert result.outcome is Outcome.RETRY
    assert 0.4 < time.monotonic() - started < 3


def test_all_waits_together_are_less_than_a_provider_may_take() -> None:
    assert outside.LOOKUP_S + outside.CONNECT_S + outside.ANSWER_S < 15


def test_a_service_that_is_away_is_tried_again(provider: WebPush, laptop: Browser) -> None:
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"https://127.0.0.1:{nobody.getsockname()[1]}/x"
        result = provider.send(json.dumps(laptop.subscription | {"endpoint": endpoint}), a_push())
    assert (result.outcome, result.error.split(":")[0]) == (Outcome.RETRY, "ConnectionRefusedError")


def test_a_service_that_shows_a_wrong_certificate_gets_nothing(
    service: WebPushService, laptop: Browser, settings: Any
) -> None:
    settings.WEBPUSH_CA_FILE = ""  # the public authorities do not know it
    requests = service.requests
    result = WebPush().send(laptop.token, a_push())
    assert (result.outcome, result.error.split(":")[0]) == (Outcome.RETRY, "SSLCertVerificationError")
    assert service.requests == requests


def test_what_the_service_says_shows_no_token_and_is_short(
    provider: WebPush, service: WebPushService, laptop: Browser
) -> None:
    path = Subscription.of(laptop.token).path
    service.next_answer(400, body=f"bad {path} \r\n\x1b[31m{'x' * 10_000}".encode())
    error = provider.send(laptop.token, a_push()).error
    assert error.startswith("400 bad … ")
    assert "\x1b" not in error
    assert len(error) < 300


def test_an_answer_without_an_end_is_not_read_to_it(
    provider: WebPush, service: WebPushService, laptop: Browser
) -> None:
    to = Subscription.of(laptop.token)
    service.next_answer(400, body=b"x" * 100_000)
    assert len(provider._outside.post(to.host, to.port, to.path, b"", {}).text) == outside.MAX_ANSWER_BYTES


# --- where it never connects -----------------------------------------------------------------------------------------
PRIVATE = [
    "127.0.0.1", "127.1.2.3", "10.1.1.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1%eth0", "fd00::1",
    "ff02::1", "2001:db8::1", "::ffff:7f00:1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_these_addresses_are_not_public(address: str) -> None:
    assert not outside.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_these_addresses_are_public(address: str) -> None:
    assert outside.is_public(address)


def resolver(*answers: list[str]) -> Any:
    """Instead of getaddrinfo: an answer for each look-up, the last one for all that follow."""
    remaining = list(answers)

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        addresses = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        family = {False: socket.AF_INET, True: socket.AF_INET6}
        return [(family[":" in each], socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    return look_up


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:7f00:1"]])
def test_a_host_that_leads_inside_is_not_registered(
    laptop: Browser, settings: Any, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    settings.WEBPUSH_ALLOW_PRIVATE = False
    monkeypatch.setattr(socket, "getaddrinfo", resolver(addresses))
    with pytest.raises(BadSubscription, match="not on the public internet"):
        registrable(json.dumps(laptop.subscription | {"endpoint": "https://push.example.org/x"}))


def test_a_host_that_is_public_when_registered_and_private_later_is_not_connected_to(
    service: WebPushService, laptop: Browser, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBPUSH_ALLOW_PRIVATE = False
    monkeypatch.setattr(socket, "getaddrinfo", resolver(["8.8.8.8"], ["127.0.0.1"]))
    dialled: list[Any] = []
    monkeypatch.setattr(outside, "_dial", dialled.append)
    token = registrable(json.dumps(laptop.subscription | {"endpoint": "https://push.example.org/x"}))
    result = WebPush().send(token, a_push())
    assert (result.outcome, result.error) == (Outcome.REJECTED, "push.example.org is not a public address")
    assert dialled == []


def test_the_connection_goes_to_the_address_that_was_looked_at(
    service: WebPushService, laptop: Browser, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look-up: a second one could answer differently."""
    settings.WEBPUSH_ALLOW_PRIVATE = False
    monkeypatch.setattr(socket, "getaddrinfo", resolver(["8.8.8.8"], ["127.0.0.1"]))
    dialled: list[Any] = []

    def dial(addresses: Any) -> Any:
        dialled.extend(addresses)
        raise ConnectionRefusedError

    monkeypatch.setattr(outside, "_dial", dial)
    token = json.dumps(laptop.subscription | {"endpoint": "https://push.example.org/x"})
    assert WebPush().send(token, a_push()).outcome is Outcome.RETRY
    assert dialled == [(socket.AF_INET, ("8.8.8.8", 443))]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://push.example.org/x", "ftp://push.example.org/x", "https://ada@push.example.org/x",
        "https://ada:secret@push.example.org/x", "https://push.example.org:0x1bb/x", "https://push.example.org:8443/x",
        "https://push.example.org:99999/x", "https://[::1]/x", "https://PUSH.example.org/x",
        "https:/push.example.org/x",
        "https://push.example.org\\@127.0.0.1/x", "https://push.example.org/x y", "https://push.example.org/x#y",
        "https://push.example.org/x\r\nHost: y", "https://", "https:///x", "//push.example.org/x",
        "javascript:alert(1)", "",
    ],
)  # fmt: skip
def test_these_endpoints_are_refused(
    laptop: Browser, settings: Any, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    settings.WEBPUSH_ALLOW_PRIVATE = False
    monkeypatch.setattr(socket, "getaddrinfo", resolver(["8.8.8.8"]))
    assert registrable(json.dumps(laptop.subscription | {"endpoint": "https://push.example.org/x?y=1"}))
    with pytest.raises(BadSubscription):
        registrable(json.dumps(laptop.subscription | {"endpoint": endpoint}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "localhost"])
def test_other_spellings_of_this_machine_are_refused(laptop: Browser, settings: Any, host: str) -> None:
    settings.WEBPUSH_ALLOW_PRIVATE = False
    with pytest.raises(BadSubscription, match=r"not on the public internet|can't be found"):
        registrable(json.dumps(laptop.subscription | {"endpoint": f"https://{host}/x"}))


@pytest.mark.parametrize("host", ["a..b", "." * 5, "x" * 64 + ".example", "-"])
def test_what_is_no_host_name_is_refused(laptop: Browser, host: str) -> None:
    with pytest.raises(BadSubscription):
        registrable(json.dumps(laptop.subscription | {"endpoint": f"https://{host}/x"}))


@pytest.mark.parametrize(
    "keys",
    [
        {}, {"p256dh": "", "auth": ""}, {"auth": "AAAA"}, {"auth": "A" * 23}, {"auth": 5}, {"p256dh": "B" * 87},
        {"p256dh": "ünïcode"}, {"p256dh": "A" * 86}, {"p256dh": None},
    ],
)  # fmt: skip
def test_keys_that_encrypt_for_nobody_are_refused(laptop: Browser, keys: dict[str, Any]) -> None:
    subscription = laptop.subscription
    subscription["keys"] = subscription["keys"] | keys if keys else {}
    with pytest.raises(BadSubscription):
        registrable(json.dumps(subscription))


def test_a_stored_token_that_is_none_is_forgotten(provider: WebPush) -> None:
    assert provider.send("not a subscription", a_push()).outcome is Outcome.UNREGISTERED


# --- how devices are registered --------------------------------------------------------------------------------------
async def test_a_browser_is_one_device_however_it_spells_its_subscription(ada: Client, laptop: Browser) -> None:
    spelled = json.dumps({"expirationTime": None, **laptop.subscription}, separators=(" , ", " : "))
    first = await ada.post("users/me/devices", {"platform": "web", "token": laptop.token, "name": "Firefox"})
    again = await ada.post("users/me/devices", {"platform": "web", "token": spelled, "name": "Firefox"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert (await ada.delete("users/me/devices", {"token": spelled})).status_code == 204
    assert (await ada.get("users/me/devices")).json()["results"] == []


@pytest.mark.parametrize("endpoint", ["http://push.example.org/x", "https://127.0.0.1/x", "https://localhost/x"])
async def test_an_endpoint_that_leads_inside_is_a_problem_of_the_token(
    ada: Client, laptop: Browser, settings: Any, endpoint: str
) -> None:
    settings.WEBPUSH_ALLOW_PRIVATE = False
    token = json.dumps(laptop.subscription | {"endpoint": endpoint})
    refused = await ada.post("users/me/devices", {"platform": "web", "token": token})
    assert (refused.status_code, refused["Content-Type"]) == (400, "application/problem+json")
    assert refused.json()["errors"][0]["pointer"] == "/token"
    assert (await ada.get("users/me/devices")).json()["results"] == []


async def test_every_client_can_ask_for_the_key(ada: Client, anyone: Client, settings: Any) -> None:
    settings.WEBPUSH_PRIVATE_KEY = new_private_key()
    assert (await ada.get("push/vapid-key")).json() == {"public_key": vapid.public_key()}
    assert (await anyone.get("push/vapid-key")).status_code == 401
    settings.WEBPUSH_PRIVATE_KEY = ""
    assert (await ada.get("push/vapid-key")).status_code == 404


# --- the key ---------------------------------------------------------------------------------------------------------
def test_a_new_key_is_a_key_and_another_each_time(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    keys = set()
    for _ in range(2):
        call_command("webpush_key")
        name, _, settings.WEBPUSH_PRIVATE_KEY = capsys.readouterr().out.strip().partition("=")
        assert name == "WEBPUSH_PRIVATE_KEY"
        keys.add(vapid.public_key())
    assert {len(key) for key in keys} == {87}
    assert len(keys) == 2


def test_the_first_start_makes_a_key_and_later_ones_keep_it(settings: Any, tmp_path: Path) -> None:
    first, second = (supervisor.write_environment(tmp_path, embedded=True) for _ in range(2))
    settings.WEBPUSH_PRIVATE_KEY = first["WEBPUSH_PRIVATE_KEY"]
    assert vapid.public_key()
    assert second["WEBPUSH_PRIVATE_KEY"] == first["WEBPUSH_PRIVATE_KEY"]


@pytest.mark.parametrize("key", ["rubbish", "A" * 43, "A" * 44, "é", "/" * 43])
def test_a_key_that_is_none_stops_the_worker(settings: Any, key: str) -> None:
    settings.WEBPUSH_PRIVATE_KEY = key
    with pytest.raises(ImproperlyConfigured, match="WEBPUSH_PRIVATE_KEY"):
        WebPush()


def test_the_settings_choose_it(settings: Any) -> None:
    settings.WEBPUSH_PRIVATE_KEY = new_private_key()
    settings.PUSH_PROVIDERS = {"web": "apps.push.providers.webpush.WebPush"}
    made.cache_clear()
    assert provider_for("web").name == "webpush"
    made.cache_clear()

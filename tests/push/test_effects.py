"""What each answer of FCM and APNs does to the push, the device and whoever is on call: from socket to ledger."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client import REGISTRY
from pytest_django import Settings

from apps.accounts.models import User
from apps.push import ledger, policy, sending
from apps.push import services as push
from apps.push.ledger import Attempt
from apps.push.models import Device, PushRecord
from apps.push.policy import News
from apps.push.providers import made, provider_for
from apps.push.providers.base import Outcome, Provider, Result
from apps.push.providers.breaker import LONGEST_PAUSE_S, Guarded
from apps.push.providers.fcm import Fcm
from tests.push.pushes import CONVERSATION, a_push
from tests.push_servers import apns, fcm
from tests.push_servers.apns import ApnsServer
from tests.push_servers.fcm import FcmServer

pytestmark = pytest.mark.django_db

TOKEN = "ab" * 32
State = PushRecord.State
Server = FcmServer | ApnsServer


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> Iterator[Server]:
    """The one that the test's `platform` names, and all devices are pushed to through it."""
    kind: type[Server] = ApnsServer if request.getfixturevalue("platform") == "apns" else FcmServer
    with ExitStack() as stack:
        serving = stack.enter_context(kind(tmp_path))
        for name, value in serving.settings.items():
            setattr(settings, name, int(value) if name == "APNS_PORT" else value)
        settings.PUSH_PROVIDERS = {"apns": "apps.push.providers.apns.Apns", "fcm": "apps.push.providers.fcm.Fcm"}
        made.cache_clear()
        stack.callback(made.cache_clear)
        yield serving


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


def due(limit: int, now: datetime) -> list[UUID]:
    return [push_id for of_platform in ledger.take_due(limit, now).values() for push_id in of_platform]


def claimed(user: User, platform: str, now: datetime) -> Attempt:
    """A push for a new device of this user, as the worker has it when it calls the provider."""
    device = push.register_device(user, push.NewDevice(platform, TOKEN))
    ledger.plan(News(CONVERSATION, 7, uuid4(), uuid4()), [device.id], now)
    (attempt,) = ledger.claim(due(1, now), now)
    return attempt


def sent(attempt: Attempt) -> PushRecord:
    sending.send([(attempt, a_push())])
    return PushRecord.objects.get(id=attempt.id)


def is_misconfigured(platform: str) -> float | None:
    return REGISTRY.get_sample_value("chat_push_misconfigured", {"provider": platform})


LATER_MS = 4_000_000_000_000  # in the year 2096: after every registration

EFFECTS = [
    ("fcm", fcm.Answer(), State.SENT, True, 0),
    ("fcm", fcm.error("UNREGISTERED"), State.UNREGISTERED, False, 0),
    ("fcm", fcm.error("INVALID_ARGUMENT"), State.DEAD, True, 0),
    ("fcm", fcm.error("SENDER_ID_MISMATCH"), State.DEAD, True, 0),
    ("fcm", fcm.error("QUOTA_EXCEEDED"), State.WAITING, True, 60),
    ("fcm", fcm.error("UNAVAILABLE", Retry_After="100"), State.WAITING, True, 100),
    ("fcm", fcm.error("INTERNAL"), State.WAITING, True, 1),
    ("fcm", fcm.Answer(cut=True), State.WAITING, True, 1),
    ("fcm", fcm.google_error(403, "PERMISSION_DENIED", "no", []), State.WAITING, True, 60),
    ("apns", apns.Answer(), State.SENT, True, 0),
    ("apns", apns.Answer("Unregistered", timestamp_ms=LATER_MS), State.UNREGISTERED, False, 0),
    ("apns", apns.Answer("ExpiredToken", timestamp_ms=LATER_MS), State.UNREGISTERED, False, 0),
    ("apns", apns.Answer("Unregistered", timestamp_ms=1_000), State.UNREGISTERED, True, 0),  # registered again since
    ("apns", apns.Answer("BadDeviceToken"), State.DEAD, True, 0),
    ("apns", apns.Answer("DeviceTokenNotForTopic"), State.DEAD, True, 0),
    ("apns", apns.Answer("TooManyRequests", headers={"retry-after": "100"}), State.WAITING, True, 100),
    ("apns", apns.Answer("ServiceUnavailable"), State.WAITING, True, 1),
    ("apns", apns.Answer(reset=True), State.WAITING, True, 1),
    ("apns", apns.Answer("InvalidProviderToken"), State.WAITING, True, 60),
    ("apns", apns.Answer("TopicDisallowed"), State.WAITING, True, 60),
]


@pytest.mark.parametrize(("platform", "answer", "state", "is_kept", "pause_s"), EFFECTS)
def test_each_answer_has_its_effect(
    server: Any, ada: User, platform: str, answer: Any, state: str, is_kept: bool, pause_s: int
) -> None:
    server.answers = [answer]
    started = timezone.now()
    record = sent(claimed(ada, platform, started))
    assert record.state == state
    assert Device.objects.filter(token=TOKEN).exists() == is_kept
    assert (record.provider, record.attempts) == (platform, 1)
    assert (record.provider_id != "") == (state == State.SENT)
    assert (record.error != "") == (state != State.SENT)
    if state == State.WAITING:
        assert record.due_at >= started + timedelta(seconds=pause_s)
    if pause_s == 60 and "429" not in record.error:
        assert is_misconfigured(platform) == 1
        assert sent(claimed_again(record)).state == State.SENT
        assert is_misconfigured(platform) == 0


def claimed_again(record: PushRecord) -> Attempt:
    PushRecord.objects.filter(id=record.id).update(due_at=timezone.now())
    (again,) = ledger.claim(due(1, timezone.now()), timezone.now())
    return again


@pytest.mark.parametrize(
    ("platform", "answer"),
    [("fcm", fcm.error("UNREGISTERED")), ("apns", apns.Answer("Unregistered", timestamp_ms=LATER_MS))],
)
def test_a_token_that_was_replaced_while_its_push_was_under_way_is_not_the_one_that_died(
    server: Any, ada: User, platform: str, answer: Any
) -> None:
    server.answers = [answer]
    attempt = claimed(ada, platform, timezone.now())
    Device.objects.filter(token=TOKEN).update(token="cd" * 32)
    assert sent(attempt).state == State.UNREGISTERED
    assert Device.objects.filter(token="cd" * 32).exists()


# --- whose try it is -------------------------------------------------------------------------------------------------
LATE = ledger.MAY_COMPOSE + ledger.MAY_WAIT + timedelta(seconds=1)


@pytest.mark.parametrize("platform", ["fcm"])
def test_what_waited_too_long_for_a_sender_is_tried_again_instead(server: FcmServer, ada: User, platform: str) -> None:
    """By then it may have been read, and a clear of it been on its way."""
    now = timezone.now()
    record = sent(claimed(ada, platform, now - LATE))
    assert (record.state, record.error, record.attempts) == (State.WAITING, "no sender was free in time", 0)
    assert now < record.due_at < now + timedelta(seconds=30)
    assert server.arrived.empty()
    assert sent(claimed_again(record)).state == State.SENT


def test_senders_that_are_busy_for_too_long_give_back_what_waits(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = claimed(ada, "fcm", timezone.now())
    monkeypatch.setattr(ledger, "MAY_WAIT", -timedelta(seconds=1))
    record = sent(attempt)
    assert (record.state, record.error) == (State.WAITING, "no sender was free in time")


@pytest.mark.parametrize("platform", ["fcm"])
def test_who_failed_before_is_still_known_of_one_that_could_not_be_tried(
    server: FcmServer, ada: User, platform: str
) -> None:
    server.answers = [fcm.error("INTERNAL")]
    failed = sent(claimed(ada, platform, timezone.now()))
    PushRecord.objects.update(due_at=timezone.now())
    (late,) = ledger.claim(due(1, timezone.now()), timezone.now() - LATE)
    record = sent(late)
    assert (failed.provider, record.provider) == ("fcm", "fcm")
    assert (record.state, record.error) == (State.WAITING, "no sender was free in time")


@pytest.mark.parametrize("platform", ["fcm"])
def test_who_was_taken_for_lost_writes_nothing_down(server: FcmServer, ada: User, platform: str) -> None:
    lost = claimed(ada, platform, timezone.now() - timedelta(seconds=1))
    claimed_again(PushRecord.objects.get(id=lost.id))
    assert sent(lost).state == State.SENDING


def test_what_others_say_is_written_down_as_every_database_takes_it(ada: User) -> None:
    attempt = claimed(ada, "fcm", timezone.now())
    odd = "a\0b\ud800c" + "d" * 500
    ledger.settle([ledger.answered(attempt, "fcm", Result(Outcome.REJECTED, odd, odd), timezone.now())])
    record = PushRecord.objects.get(id=attempt.id)
    assert record.error == record.provider_id == "a?b?c" + "d" * 195


def test_a_push_is_claimed_once(ada: User) -> None:
    now = timezone.now()
    attempt = claimed(ada, "fcm", now)
    assert attempt.claimed_at == now
    assert ledger.claim([attempt.id], now) == []


def test_a_provider_that_does_not_answer_keeps_no_sender_from_another(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, heard, ended = claimed(ada, "fcm", timezone.now()), threading.Event(), []

    class Silent(Quick):
        def send(self, token: str, push: Any) -> Result:
            ended.append(heard.wait(5))
            return super().send(token, push)

    monkeypatch.setattr(sending, "provider_for", lambda platform: Silent() if platform == "web" else Quick())
    at_it = [msgspec.structs.replace(attempt, id=uuid4(), platform="web") for _ in range(sending.SENDERS)]
    silent = sending._Batch([(one, a_push()) for one in at_it])
    record, ended_before = sent(attempt), len(ended)
    heard.set()

    assert (record.state, ended_before) == (State.SENT, 0)
    while silent.answers():
        pass


class Quick:
    name = "quick"

    def send(self, token: str, push: Any) -> Result:
        return Result(Outcome.ACCEPTED)


class Slow(Quick):
    """To make."""

    name = "slow"
    made = 0

    def __init__(self) -> None:
        Slow.made += 1
        threading.Event().wait(0.05)


def test_threads_that_come_first_share_one_provider(settings: Settings) -> None:
    """Two would have two connections to Apple, with two provider tokens."""
    settings.PUSH_PROVIDERS = {"apns": f"{__name__}.Slow"}
    made.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        providers = list(threads.map(lambda _: provider_for("apns"), range(8)))
    made.cache_clear()
    assert len({id(provider) for provider in providers}) == 1
    assert Slow.made == 1


# --- who waits for whom ----------------------------------------------------------------------------------------------
def changed_in_order(queries: CaptureQueriesContext, table: str) -> bool:
    """SQLite locks no rows; on PostgreSQL they are locked by what reads them first."""
    of_table = [query["sql"] for query in queries if table in query["sql"] and "SAVEPOINT" not in query["sql"]]
    return of_table[0].startswith(f'SELECT "{table}"."id"') and " ORDER BY 1 ASC" in of_table[0]


def test_a_dead_device_is_locked_before_its_pushes_and_those_in_order(ada: User) -> None:
    """As by those who plan for it: none of them wait for each other in a circle."""
    attempt = claimed(ada, "fcm", timezone.now())
    with CaptureQueriesContext(connection) as queries:
        ledger.forget_device(attempt, Result(Outcome.UNREGISTERED))
    asked = [query["sql"] for query in queries]
    assert changed_in_order(queries, "push_device") and changed_in_order(queries, "push_pushrecord")
    assert [sql.split('"')[1] for sql in asked if sql.startswith(("UPDATE", "DELETE"))] == [
        "push_pushrecord",
        "push_device",
    ]
    assert not Device.objects.exists()


def _replay(attempt: Attempt, now: datetime) -> None:
    PushRecord.objects.update(state=State.DEAD)
    with CaptureQueriesContext(connection) as queries:
        assert ledger.replay(PushRecord.objects.order_by("created_at"), now) == 1
    assert changed_in_order(queries, "push_pushrecord")


def _put_back(attempt: Attempt, now: datetime) -> None:
    PushRecord.objects.update(state=State.QUEUED)
    with CaptureQueriesContext(connection) as queries:
        ledger.put_back([attempt.id], now)
    assert changed_in_order(queries, "push_pushrecord")
    assert PushRecord.objects.get().state == State.WAITING


def _bury(attempt: Attempt, now: datetime) -> None:
    PushRecord.objects.update(expires_at=now, due_at=now)
    with CaptureQueriesContext(connection) as queries:
        ledger._bury_expired(now)
    assert changed_in_order(queries, "push_pushrecord")
    assert PushRecord.objects.get().state == State.DEAD


@pytest.mark.parametrize("change", [_replay, _put_back, _bury])
@pytest.mark.parametrize("at_once", [1, 2])
def test_many_pushes_are_changed_in_order(
    ada: User, monkeypatch: pytest.MonkeyPatch, change: Callable[[Attempt, datetime], None], at_once: int
) -> None:
    monkeypatch.setattr(ledger, "CHANGED_AT_ONCE", at_once)
    now = timezone.now()
    change(claimed(ada, "fcm", now), now)


# --- away for ten minutes --------------------------------------------------------------------------------------------
class Counted:
    """How often the provider itself was called."""

    def __init__(self, provider: Provider) -> None:
        self.name = provider.name
        self.calls = 0
        self._provider = provider

    def send(self, token: str, push: Any) -> Result:
        self.calls += 1
        return self._provider.send(token, push)


def work_off(now: datetime) -> None:
    """What the workers do of what is due."""
    for push_id in due(1_000, now):
        sending.send([(attempt, a_push()) for attempt in ledger.claim([push_id], now)])


def plan_pushes(user: User, number: int, now: datetime) -> None:
    for index in range(number):
        device = Device.objects.create(user=user, platform="fcm", token=f"phone {index}")
        ledger.plan(News(UUID(int=index), 1, uuid4(), uuid4()), [device.id], now)


@pytest.mark.parametrize("platform", ["fcm"])
def test_a_provider_that_is_away_for_ten_minutes_is_left_alone_and_then_gets_everything(
    server: FcmServer, ada: User, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = start = timezone.now()
    counted = Counted(Fcm())
    guarded = Guarded(counted, lambda: timezone.now().timestamp())
    monkeypatch.setattr(sending, "provider_for", lambda platform: guarded)
    monkeypatch.setattr(timezone, "now", lambda: now)
    plan_pushes(ada, 40, start)

    server.away()
    while now < start + timedelta(minutes=10):
        work_off(now)
        now += timedelta(seconds=5)
    assert counted.calls < 40, "40 pushes, each tried again and again, would have been hundreds"
    assert PushRecord.objects.filter(state=State.WAITING).count() == 40

    server.listen()
    back = now
    while PushRecord.objects.exclude(state=State.SENT).exists():
        assert now < back + policy.LONGEST_PAUSE + timedelta(seconds=LONGEST_PAUSE_S + 10)
        work_off(now)
        now += timedelta(seconds=5)
    assert sorted(server.wait(1).token for _ in range(40)) == sorted(f"phone {index}" for index in range(40))

"""What an operator asks of pushes, on the command line and in the admin."""

import io
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import kombu
import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import Client as Browser
from django.utils import timezone

from apps.accounts.models import User
from apps.push import dead_letters, ledger
from apps.push import services as push
from apps.push.management.commands import push_test
from apps.push.models import Device, PushRecord
from apps.push.notification import Push
from apps.push.policy import News
from apps.push.providers.base import Outcome, Result

pytestmark = pytest.mark.django_db(transaction=True)

CONVERSATION, MESSAGE = uuid4(), uuid4()


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", "correct horse battery")


@pytest.fixture
def phone(ada: User) -> Device:
    return push.register_device(ada, push.NewDevice("fcm", "a token of hers", "Phone"))


def planned(device: Device, seq: int = 7, client_msg_id: UUID = MESSAGE) -> PushRecord:
    ledger.plan(News(CONVERSATION, seq, uuid4(), client_msg_id), [device.id], timezone.now())
    return PushRecord.objects.get(seq=seq)


def settled(record: PushRecord, result: Result) -> PushRecord:
    assert record.id in ledger.take_due(10, timezone.now())["fcm"]
    (attempt,) = ledger.claim([record.id], timezone.now())
    ledger.settle([ledger.answered(attempt, "fcm", result, timezone.now())])
    return PushRecord.objects.get(id=record.id)


def run(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("asked", ["ada", "ADA", f"{CONVERSATION}:7", str(MESSAGE)])
def test_a_push_is_traced_by_person_and_message(phone: Device, asked: str) -> None:
    settled(planned(phone), Result(Outcome.ACCEPTED, provider_id="projects/chat/messages/1"))
    story = run("push_trace", asked)
    assert "message to ada, fcm Phone" in story
    assert f"{CONVERSATION}:7" in story
    assert "sent" in story and "projects/chat/messages/1" in story
    assert phone.token not in story


def test_a_trace_says_why_a_push_did_not_go(phone: Device) -> None:
    settled(planned(phone), Result(Outcome.RETRY, error="503 UNAVAILABLE"))
    story = run("push_trace", f"{CONVERSATION}:7")
    assert "waiting, due" in story
    assert "because: 503 UNAVAILABLE" in story


def test_a_trace_of_nothing_says_so(ada: User) -> None:
    assert "No push was planned" in run("push_trace", "ada")
    assert "No push was planned" in run("push_trace", f"{CONVERSATION}:7")
    with pytest.raises(CommandError, match="nobody"):
        run("push_trace", "nobody")
    with pytest.raises(CommandError, match="is no id"):
        run("push_trace", "a" * 33 + ":7")


def test_dead_letters_are_listed_and_replayed(phone: Device) -> None:
    dead = settled(planned(phone), Result(Outcome.REJECTED, error="INVALID_ARGUMENT"))
    alive = planned(phone, seq=8)

    listed = run("push_dead", "list")
    assert f"{dead.id} " in listed and "INVALID_ARGUMENT" in listed and "1 pushes" in listed
    assert str(alive.id) not in listed
    assert "0 pushes" in run("push_dead", "list", "--provider", "apns")

    assert "0 pushes" in run("push_dead", "replay", str(alive.id))
    assert "1 pushes" in run("push_dead", "replay", str(dead.id))
    assert PushRecord.objects.get(id=dead.id).state == "waiting"


def test_a_dead_letter_of_a_device_that_is_gone_stays_one(phone: Device) -> None:
    dead = settled(planned(phone), Result(Outcome.REJECTED))
    phone.delete()
    assert "device gone" in run("push_dead", "list")
    assert "0 pushes" in run("push_dead", "replay")
    assert PushRecord.objects.get(id=dead.id).state == "dead"


class FakeProvider:
    name = "fake"

    def send(self, token: str, push: Push) -> Result:
        return Result(Outcome.ACCEPTED, "its-id") if token == "works" else Result(Outcome.UNREGISTERED, error="gone")


def test_a_test_push_tells_what_each_device_took(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_test, "provider_for", lambda platform: FakeProvider())
    push.register_device(ada, push.NewDevice("fcm", "works", "Phone"))
    assert run("push_test", "ada") == "fcm Phone: accepted by fake its-id\n"

    push.register_device(ada, push.NewDevice("apns", "dead", "Pad"))
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("push_test", "ada", stdout=out)
    assert out.getvalue().splitlines()[-1] == "apns Pad: unregistered by fake gone"
    assert Device.objects.count() == 2


def test_a_test_push_says_what_is_missing(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="has no devices"):
        run("push_test", "ada")

    def refuse(platform: str) -> None:
        raise ImproperlyConfigured("APNS_KEY_FILE is not there")

    monkeypatch.setattr(push_test, "provider_for", refuse)
    push.register_device(ada, push.NewDevice("apns", "a token", "Pad"))
    with pytest.raises(CommandError, match="APNS_KEY_FILE is not there"):
        run("push_test", "ada")


def celery_on(broker_url: str) -> Celery:
    app = Celery("dead letters", broker=broker_url, set_as_current=False)
    app.conf.update(task_default_exchange="push", task_default_routing_key="push")
    return app


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline


def test_tasks_that_rabbitmq_has_given_up_are_put_back(
    broker_url: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BROKER_URL = broker_url
    monkeypatch.setattr(dead_letters, "current_app", celery_on(broker_url))
    assert dead_letters.count_tasks() == 0
    dead_letters.declare()
    with kombu.Connection(broker_url) as connection:
        exchange = kombu.Exchange("push", type="topic", durable=True)
        arguments = {"x-queue-type": "quorum"}
        queue = kombu.Queue("dead letter test", exchange, "push", queue_arguments=arguments)(connection)
        queue.declare()
        connection.Producer().publish(b"[]", routing_key=dead_letters.NAME, headers={"task": "t", "x-death": []})
        until(lambda: dead_letters.count_tasks() == 1)

        assert "1 tasks in push.dead" in run("push_dead", "list")
        assert "1 tasks" in run("push_dead", "replay")

        until(lambda: dead_letters.count_tasks() == 0)
        back = queue.get()
        assert back is not None
        assert (back.body, back.headers["task"], "x-death" in back.headers) == (b"[]", "t", False)
        back.ack()
        queue.delete()


# --- the admin -------------------------------------------------------------------------------------------------------
@pytest.fixture
def operator() -> Browser:
    User.objects.create_superuser("root", "correct horse battery")
    browser = Browser()
    assert browser.login(username="root", password="correct horse battery")
    return browser


def test_the_admin_shows_the_ledger_and_nobody_edits_it(phone: Device, operator: Browser) -> None:
    record = settled(planned(phone), Result(Outcome.REJECTED, error="INVALID_ARGUMENT"))

    listed = operator.get("/admin/push/pushrecord/", {"state": "dead", "q": "ada"})
    assert "INVALID_ARGUMENT" in listed.content.decode()
    shown = operator.get(f"/admin/push/pushrecord/{record.id}/change/")
    assert shown.status_code == 200
    assert phone.token not in shown.content.decode()
    assert operator.post(f"/admin/push/pushrecord/{record.id}/delete/", {"post": "yes"}).status_code == 403
    assert operator.get("/admin/push/notificationsettings/").status_code == 200


@pytest.mark.parametrize("selected", [True, False])
def test_an_operator_removes_devices_as_everybody_does(
    phone: Device, operator: Browser, monkeypatch: pytest.MonkeyPatch, selected: bool
) -> None:
    """Locked in the order of those who push to them."""
    removed, delete = [], ledger.delete_devices
    monkeypatch.setattr(ledger, "delete_devices", lambda devices: (removed.extend(devices), delete(devices)))
    if selected:
        asked = {"action": "delete_selected", "_selected_action": [str(phone.id)], "post": "yes"}
        operator.post("/admin/push/device/", asked)
    else:
        operator.post(f"/admin/push/device/{phone.id}/delete/", {"post": "yes"})
    assert removed == [phone]
    assert not Device.objects.exists()

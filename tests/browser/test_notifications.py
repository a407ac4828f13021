"""
Ada is away and her browser notifies her, over a real worker and a push service that decrypts.

Chromium's own push service is not ours to replace: the page gets a `PushManager` whose subscriptions are made by the
service of the tests, and what that service took is handed to the service worker by the browser's developer tools.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Worker, expect

from apps.push.vapid_key import new_private_key
from tests.browser.conftest import Guest
from tests.push_servers.webpush import WebPushService
from tests.system.servers import Installation, worker

pytestmark = [pytest.mark.browser, pytest.mark.system]

PUSH_MANAGER = """(() => {
    const subscription = ({key, json}) => ({
        options: {applicationServerKey: Uint8Array.fromBase64(key, {alphabet: "base64url"}).buffer},
        toJSON: () => json,
        unsubscribe: async () => { localStorage.removeItem("subscription"); return true; },
    });
    PushManager.prototype.getSubscription = async () => {
        const kept = localStorage.getItem("subscription");
        return kept === null ? null : subscription(JSON.parse(kept));
    };
    PushManager.prototype.subscribe = async ({applicationServerKey: key}) => {
        const made = {key, json: await subscribeAtTheService(key)};
        localStorage.setItem("subscription", JSON.stringify(made));
        return subscription(made);
    };
})()"""

# Whoever asks what is shown while it is just being put up makes Chromium forget it: not before the worker is done.
EXPECT_PUSH = """() => {
    self.handled = new Promise((resolve) => {
        PushEvent.prototype.waitUntil = function (work) {
            ExtendableEvent.prototype.waitUntil.call(this, work);
            resolve(work);
        };
    });
}"""
HANDLED = "() => self.handled"
SHOWN = """async (expected) => {
    const deadline = Date.now() + 10000;
    let all = await self.registration.getNotifications();
    while (all.length !== expected && Date.now() < deadline) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        all = await self.registration.getNotifications();
    }
    return all.map(({title, body}) => [title, body]);
}"""
CLICK = """async () => {
    const [notification] = await self.registration.getNotifications();
    return new Promise((resolve) => {
        self.clients.openWindow = resolve;  // which only a real click may do
        self.dispatchEvent(new NotificationEvent("notificationclick", {notification}));
    });
}"""


@pytest.fixture(scope="module")
def push_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPushService]:
    with WebPushService(tmp_path_factory.mktemp("webpush")) as service:
        yield service


@pytest.fixture(scope="module")
def installation(
    valkey_url: str, push_service: WebPushService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """A node and a worker."""
    data = tmp_path_factory.mktemp("notified")
    stores = {"REDIS_URL": valkey_url, "BROKER_URL": valkey_url.removesuffix("/0") + "/1"}
    settings = push_service.settings | {"WEBPUSH_PRIVATE_KEY": new_private_key()}
    log = data / "log" / "worker.log"
    with Installation(data, stores, nodes=1, **settings) as running, worker(running, log, "--beat"):
        yield running


@pytest.fixture
def ada(guest: Callable[..., Guest], push_service: WebPushService) -> Guest:
    """Her browser subscribes at the service of the tests, where the browsers of earlier tests have gone."""
    push_service.browsers.clear()
    push_service.arrived.queue.clear()
    ada = guest(node=0)
    ada.context.expose_function("subscribeAtTheService", lambda key: push_service.subscribe(key).subscription)
    ada.context.add_init_script(PUSH_MANAGER)
    ada.sign_up("Ada Lovelace")
    return ada


@pytest.fixture
def bob(guest: Callable[..., Guest]) -> Guest:
    bob = guest(node=0)
    bob.sign_up("Bob Kahn")
    return bob


def turn_on(person: Guest) -> None:
    person.context.grant_permissions(["notifications"], origin=person.url)
    person.page.goto(f"{person.url}/settings/")
    person.page.get_by_role("button", name="Turn on").click()
    expect(person.page.get_by_text("You are notified here while the chat is closed.")).to_be_visible()


def service_worker(person: Guest) -> Worker:
    (only,) = person.context.service_workers
    return only


def shown(person: Guest, expected: int) -> list[list[str]]:
    """Title and body of each notification, once there are as many as expected, or never will be."""
    return list(service_worker(person).evaluate(SHOWN, expected))


def deliver(person: Guest, page: Page, payload: dict[str, Any]) -> None:
    """As the browser does with what its push service hands it; returns once the service worker is done with it."""
    tools = person.context.new_cdp_session(page)
    registrations: list[dict[str, Any]] = []
    tools.on("ServiceWorker.workerRegistrationUpdated", lambda event: registrations.extend(event["registrations"]))
    tools.send("ServiceWorker.enable")
    while not registrations:
        page.wait_for_timeout(20)
    push = {"registrationId": registrations[0]["registrationId"], "data": json.dumps(payload)}
    service_worker(person).evaluate(EXPECT_PUSH)
    tools.send("ServiceWorker.deliverPushMessage", {"origin": person.url, **push})
    service_worker(person).evaluate(HANDLED)
    tools.detach()


def devices_of(person: Guest) -> list[dict[str, Any]]:
    return list(person.page.request.get(f"{person.url}/api/v1/users/me/devices").json()["results"])


def test_ada_closes_her_tab_and_is_notified_and_lands_in_the_conversation(
    ada: Guest, bob: Guest, push_service: WebPushService
) -> None:
    conversation = bob.find(ada)
    turn_on(ada)
    assert [device["name"] for device in devices_of(ada)] == ["Chrome on Linux"]
    ada.page.close()

    bob.say("Are you there, Ada?")
    arrived = push_service.wait(30)
    assert (arrived.payload["title"], arrived.payload["body"]) == ("Bob Kahn", "Are you there, Ada?")
    assert arrived.payload["conversation_id"] in conversation

    ada.page = ada.new_page()
    ada.page.goto("about:blank")
    deliver(ada, ada.page, arrived.payload)
    assert shown(ada, 1) == [["Bob Kahn", "Are you there, Ada?"]]

    path = service_worker(ada).evaluate(CLICK)
    ada.page.goto(f"{ada.url}{path}")
    ada.sees("Are you there, Ada?")
    assert shown(ada, 0) == []


def test_a_page_that_shows_the_conversation_takes_its_notification_away(
    ada: Guest, bob: Guest, push_service: WebPushService
) -> None:
    conversation = bob.find(ada)
    turn_on(ada)
    ada.page.goto("about:blank")
    bob.say("one", "two")
    arrived = push_service.wait(30)
    deliver(ada, ada.page, arrived.payload)
    assert len(shown(ada, 1)) == 1

    ada.page.goto(conversation)
    ada.sees("one", "two")
    assert shown(ada, 0) == []

    ada.page.bring_to_front()
    deliver(ada, ada.page, arrived.payload)  # late: she is looking at it
    another = {"conversation_id": "another", "path": "/c/another/", "title": "Another"}
    deliver(ada, ada.page, arrived.payload | another)
    assert [title for title, _ in shown(ada, 1)] == ["Another"]


def test_what_ada_reads_elsewhere_is_taken_away_here_and_says_no_more_than_she_wants(
    ada: Guest, bob: Guest, guest: Callable[..., Guest], push_service: WebPushService
) -> None:
    conversation = bob.find(ada)
    turn_on(ada)
    ada.page.get_by_label("They say").select_option("sender")
    ada.page.get_by_role("region", name="What notifications say").get_by_role("button", name="Save").click()
    expect(ada.page.get_by_text("You will be notified as you wish.")).to_be_visible()
    ada.page.goto("about:blank")
    bob.say("a secret")
    arrived = push_service.wait(30)
    assert (arrived.payload["title"], arrived.payload["body"]) == ("Bob Kahn", "New message")
    deliver(ada, ada.page, arrived.payload)
    assert len(shown(ada, 1)) == 1

    phone = guest(node=0)
    phone.log_in(ada.username)
    phone.page.goto(conversation)
    phone.sees("a secret")
    clear = push_service.wait(30)
    assert (clear.payload["kind"], clear.payload["badge"]) == ("clear", 0)
    deliver(ada, ada.page, clear.payload)
    assert shown(ada, 0) == []


def test_turned_off_and_logged_out_a_browser_is_no_device_any_more(ada: Guest) -> None:
    turn_on(ada)
    assert len(devices_of(ada)) == 1
    ada.page.get_by_role("button", name="Turn off").click()
    expect(ada.page.get_by_text("You hear nothing here while the chat is closed.")).to_be_visible()
    assert devices_of(ada) == []

    ada.page.get_by_role("button", name="Turn on").click()
    expect(ada.page.get_by_text("You are notified here")).to_be_visible()
    ada.page.get_by_role("banner").get_by_role("button", name="Log out").click()
    ada.log_in(ada.username)
    ada.connected()
    ada.page.goto(f"{ada.url}/settings/")
    expect(ada.page.get_by_text("You are notified here")).to_be_visible()  # a new session, and the same device again
    assert len(devices_of(ada)) == 1


def test_a_browser_that_blocks_notifications_says_so(ada: Guest) -> None:
    ada.page.goto(f"{ada.url}/settings/")
    ada.page.get_by_role("button", name="Turn on").click()  # nobody has allowed it, and nobody is there to ask
    expect(ada.page.get_by_text("This browser blocks notifications from the chat.")).to_be_visible()
    expect(ada.page.get_by_role("button", name="Turn on")).to_be_hidden()
    assert devices_of(ada) == []

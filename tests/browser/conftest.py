"""
Chromium against real nodes. A person is a browser context of their own, on the node that the test names.

Whatever the console reports, a violation of the Content-Security-Policy included, fails the test.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect, sync_playwright

from tests.system.servers import Installation

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PASSWORD = "correct horse battery"
NEVER_REPORTED = re.compile("^not this time:|^messages could not be loaded:")  # what a later try mends
OFFLINE = "ERR_INTERNET_DISCONNECTED"
NODE_IS_DOWN = "ERR_CONNECTION_REFUSED|WebSocket connection to"

WRITE_HISTORY = """([conversation_id, texts]) => new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/ws/v1/`);
    let acked = 0, sent = 0;
    const send = () => {
        for (; sent < texts.length && sent - acked < 5; sent += 1) {
            const message = {client_msg_id: crypto.randomUUID(), conversation_id, content: texts[sent]};
            socket.send(JSON.stringify({type: "message.send", ...message}));
        }
    };
    socket.onerror = reject;
    socket.onmessage = ({data}) => {
        const event = JSON.parse(data);
        if (event.type === "nack") reject(event);
        if (event.type === "ack") acked += 1;
        if (event.type === "hello" || event.type === "ack") send();
        if (acked === texts.length) { socket.close(); resolve(acked); }
    };
})"""

_numbers = count(1)


@pytest.fixture(scope="module")
def installation(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Two nodes, each on its own port, on one set of stores."""
    stores = {"REDIS_URL": valkey_url, "BROKER_URL": valkey_url.removesuffix("/0") + "/1"}
    with Installation(tmp_path_factory.mktemp("browser"), stores, nodes=2) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Not the plugin's browser, which would leave its event loop running under every async test that follows."""
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is not installed")
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Guest:
    """A browser: nobody yet, or a person once they have signed up or logged in."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context: BrowserContext = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.problems: list[str] = []
        self.expected = ""
        self.username = ""
        self.name = ""
        self.page = self.new_page()

    def new_page(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(f"{error}"))
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        text = message.text
        if message.type in ("error", "warning") and not NEVER_REPORTED.search(text):
            self.problems.append(f"{text} ({message.location.get('url')})")

    @property
    def unexpected(self) -> list[str]:
        return [each for each in self.problems if not self.expected or not re.search(self.expected, each)]

    # --- what a person does ------------------------------------------------------------------------------------------
    def sign_up(self, name: str) -> None:
        self.name, self.username = name, f"{name.split(maxsplit=1)[0].lower()}-{next(_numbers)}"
        self.page.goto(f"{self.url}/accounts/signup/")
        self.page.get_by_label("Username").fill(self.username)
        self.page.get_by_label("Display name").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Make the account").click()
        self.page.wait_for_url(f"{self.url}/")

    def log_in(self, username: str) -> None:
        self.page.goto(f"{self.url}/accounts/login/")
        self.page.get_by_label("Username").fill(username)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("main").get_by_role("button", name="Log in").click()
        self.page.wait_for_url(f"{self.url}/")

    def connected(self, page: Page | None = None) -> str:
        """Waits until the page is live. Returns the node that it is on."""
        root = (page or self.page).locator("html[data-connection=open]")
        expect(root).to_have_count(1)
        return str(root.get_attribute("data-node"))

    def find(self, other: "Guest") -> str:
        """Looks for a person by name and opens the conversation with them; returns its address."""
        self.page.goto(f"{self.url}/new/")
        self.page.get_by_label("Name or username").fill(other.username)
        self.page.get_by_role("button", name=f"Message {other.name}").click()
        self.page.wait_for_url("**/c/*/")
        self.connected()
        return self.page.url

    def make_group(self, title: str, *others: "Guest") -> None:
        self.page.goto(f"{self.url}/new/")
        self.page.get_by_label("Name of the group").fill(title)
        self.page.get_by_label(re.compile("^Usernames")).fill(" ".join(each.username for each in others))
        self.page.get_by_role("button", name="Make the group").click()
        self.connected()

    def open(self, name: str) -> None:
        self.page.goto(f"{self.url}/")
        self.row(name).click()
        self.page.wait_for_url("**/c/*/")
        self.connected()

    def say(self, *texts: str, page: Page | None = None) -> None:
        box = (page or self.page).get_by_label(re.compile("^Message to"))
        for text in texts:
            box.fill(text)
            box.press("Enter")

    def write_history(self, conversation_url: str, *texts: str) -> None:
        """Says things over a socket of its own, for a long history in short time."""
        conversation_id = conversation_url.rstrip("/").rsplit("/", 1)[-1]
        assert self.page.evaluate(WRITE_HISTORY, [conversation_id, list(texts)]) == len(texts)

    # --- what a person sees ------------------------------------------------------------------------------------------
    def row(self, name: str) -> Locator:
        return self.page.get_by_role("navigation", name="Conversations").get_by_role("listitem").filter(has_text=name)

    def message(self, text: str, page: Page | None = None) -> Locator:
        where = page or self.page
        return where.locator("[data-messages] .message").filter(has=where.get_by_text(text, exact=True))

    def sees(self, *texts: str, page: Page | None = None) -> None:
        """Waits until each of these messages stands there, once, in its place."""
        for text in texts:
            expect(self.message(text, page)).to_have_count(1)
            expect(self.message(text, page)).to_have_attribute("data-state", "sent")

    def texts(self, page: Page | None = None) -> list[str]:
        return (page or self.page).locator(".message[data-kind=text] .text").all_inner_texts()


@pytest.fixture
def guest(chromium: Browser, installation: Installation) -> Iterator[Callable[..., Guest]]:
    """`guest(node=1)`: a browser on the second node. Options go to the browser context."""
    guests: list[Guest] = []

    def arrive(*, node: int = 0, **options: Any) -> Guest:
        guests.append(Guest(chromium, installation.nodes[node].url, **options))
        return guests[-1]

    yield arrive
    for each in guests:
        each.context.close()
    problems = {each.username: each.unexpected for each in guests if each.unexpected}
    assert not problems, problems


@pytest.fixture
def ada(guest: Callable[..., Guest]) -> Guest:
    """On the first node."""
    ada = guest(node=0)
    ada.sign_up("Ada Lovelace")
    return ada


@pytest.fixture
def bob(guest: Callable[..., Guest]) -> Guest:
    """On the second node."""
    bob = guest(node=1)
    bob.sign_up("Bob Kahn")
    return bob


@pytest.fixture
def eve(guest: Callable[..., Guest]) -> Guest:
    eve = guest(node=0)
    eve.sign_up("Eve Boyd")
    return eve


@pytest.fixture(scope="session")
def artefacts() -> Path:
    directory = Path(__file__).resolve().parent.parent.parent / "artefacts"
    directory.mkdir(exist_ok=True)
    return directory

"""What people do in their browsers and what they see, on two nodes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.browser.conftest import NODE_IS_DOWN, OFFLINE, Guest
from tests.system.servers import Installation

pytestmark = [pytest.mark.browser, pytest.mark.system]


def test_two_people_on_different_nodes_find_each_other_and_chat_through_an_outage(ada: Guest, bob: Guest) -> None:
    assert (ada.connected(), bob.connected()) == ("node-1", "node-2")
    conversation = ada.find(bob)
    ada.say("Good morning, Bob")
    ada.sees("Good morning, Bob")

    expect(bob.row("Ada Lovelace")).to_contain_text("Good morning, Bob")  # it comes up by itself
    bob.open("Ada Lovelace")
    bob.say("Good morning, Ada")
    ada.sees("Good morning, Bob", "Good morning, Ada")

    bob.expected = OFFLINE
    bob.context.set_offline(True)
    expect(bob.page.get_by_text("You are offline.")).to_be_visible()
    bob.say("written offline 1", "written offline 2", "written offline 3")
    expect(bob.message("written offline 1")).to_have_attribute("data-state", "pending")
    ada.say("said meanwhile 1", "said meanwhile 2")
    ada.sees("said meanwhile 1", "said meanwhile 2")
    expect(ada.message("written offline 1")).to_have_count(0)

    bob.context.set_offline(False)
    everything = [
        "Good morning, Bob", "Good morning, Ada", "said meanwhile 1", "said meanwhile 2",
        "written offline 1", "written offline 2", "written offline 3",
    ]  # fmt: skip
    for person in (ada, bob):
        person.sees(*everything)
        assert person.texts() == everything
    expect(bob.page.get_by_text("You are offline.")).to_be_hidden()

    ada.page.goto(conversation)  # as the server draws it
    assert ada.texts() == everything


def test_a_group_of_three_hears_everything_and_knows_who_is_in_it(ada: Guest, bob: Guest, eve: Guest) -> None:
    ada.find(bob)
    ada.page.goto(f"{ada.url}/new/")
    ada.page.get_by_label("Name of the group").fill("Release team")
    ada.page.get_by_label("Bob Kahn").check()
    ada.page.get_by_label(re.compile("^Usernames")).fill(eve.username)
    ada.page.get_by_role("button", name="Make the group").click()
    ada.connected()
    ada.say("Welcome both")
    for other in (bob, eve):
        expect(other.row("Release team")).to_contain_text("Ada Lovelace: Welcome both")
        other.open("Release team")
        other.sees("Welcome both")
    bob.say("Hello from Bob")
    eve.sees("Hello from Bob")
    eve.say("Hello from Eve")
    everything = ["Welcome both", "Hello from Bob", "Hello from Eve"]
    for person in (ada, bob, eve):
        person.sees(*everything)
        assert person.texts() == everything
        expect(person.page.get_by_text("Ada Lovelace created the group “Release team”")).to_be_visible()

    bob.page.get_by_role("link", name="Members").click()
    ada.page.get_by_role("link", name="Members").click()
    expect(bob.page.get_by_role("button", name="Remove Eve Boyd")).to_have_count(0)
    ada.page.get_by_role("button", name="Make an admin Bob Kahn").click()
    expect(bob.page.get_by_role("button", name="Remove Eve Boyd")).to_be_visible()  # it is redrawn by itself
    ada.page.on("dialog", lambda dialog: dialog.accept())
    ada.page.get_by_role("button", name="Remove Eve Boyd").click()
    expect(eve.page.get_by_text("You are no longer in this group.")).to_be_visible()
    expect(eve.row("Release team")).to_have_count(0)
    ada.page.get_by_label("Name of the group").fill("Two of us")
    ada.page.get_by_role("button", name="Rename").click()
    expect(bob.row("Two of us")).to_be_visible()
    ada.page.get_by_role("button", name="Leave the group").click()
    expect(ada.page.get_by_text("You have left the group.")).to_be_visible()
    bob.page.get_by_role("link", name="Back to the conversation", exact=True).click()
    expect(bob.page.get_by_role("log").get_by_text("Ada Lovelace left")).to_be_visible()


def test_who_was_offline_sees_what_became_of_the_members_meanwhile(ada: Guest, bob: Guest) -> None:
    ada.make_group("Tea", bob)
    bob.open("Tea")
    for person in (ada, bob):
        person.page.get_by_role("link", name="Members").click()
        expect(person.page.get_by_role("heading", name="Members")).to_be_visible()
        person.connected()
    expect(bob.page.get_by_text("admin", exact=True)).to_have_count(0)

    bob.expected = OFFLINE
    bob.context.set_offline(True)
    expect(bob.page.get_by_text("You are offline.")).to_be_visible()
    ada.page.get_by_role("button", name="Make an admin Bob Kahn").click()
    expect(ada.page.get_by_text("admin", exact=True)).to_be_visible()
    bob.context.set_offline(False)
    expect(bob.page.get_by_text("admin", exact=True)).to_be_visible()
    expect(bob.page.get_by_role("button", name="Rename")).to_be_visible()

    bob.expected = rf"{OFFLINE}|403 \(Forbidden\)"
    bob.context.set_offline(True)
    expect(bob.page.get_by_text("You are offline.")).to_be_visible()
    ada.page.on("dialog", lambda dialog: dialog.accept())
    ada.page.get_by_role("button", name="Remove Bob Kahn").click()
    expect(ada.page.get_by_text("1 member", exact=True)).to_be_visible()
    bob.context.set_offline(False)
    expect(bob.page.get_by_text("You are no longer in this group.")).to_be_visible()


def test_what_changed_before_a_page_was_connected_is_shown(ada: Guest, bob: Guest) -> None:
    ada.make_group("Tea", bob)
    ada.page.get_by_role("link", name="Members").click()
    bob.open("Tea")
    held: list[WebSocketRoute] = []

    def hold(socket: WebSocketRoute) -> None:
        held.append(socket)

    bob.page.route_web_socket("**/ws/v1/", hold)
    bob.page.get_by_role("link", name="Members").click()
    expect(bob.page.get_by_text("2 members", exact=True)).to_be_visible()
    expect(bob.page.locator("html[data-connection=connecting]")).to_have_count(1)

    ada.page.get_by_role("button", name="Make an admin Bob Kahn").click()
    expect(ada.page.get_by_text("admin", exact=True)).to_be_visible()
    held[-1].connect_to_server()
    expect(bob.page.get_by_text("admin", exact=True)).to_be_visible()


def test_scrolling_back_loads_what_came_before_and_keeps_the_place(ada: Guest, bob: Guest) -> None:
    conversation = ada.find(bob)
    ada.write_history(conversation, *(f"message {number}" for number in range(1, 421)))
    ada.page.reload()
    ada.connected()
    expect(ada.message("message 420")).to_be_in_viewport()

    for _ in range(4):
        first = ada.page.locator(".message[data-seq]").first
        seq = int(first.get_attribute("data-seq") or 0)
        moved = ada.page.evaluate(SCROLL_UP_AND_SEE_WHAT_MOVES)
        assert abs(moved) <= 2
        assert ada.page.locator(f".message[data-seq='{seq - 1}']").count() == 1
    expect(ada.page.get_by_role("button", name="Newest")).to_be_visible()

    ada.page.locator("[data-log]").evaluate(SCROLL_TO_THE_BEGINNING)
    expect(ada.page.get_by_text("This is where your conversation begins.")).to_be_in_viewport()
    expect(ada.message("message 1")).to_have_count(1)
    assert ada.page.locator(".message").count() <= 350

    bob.open("Ada Lovelace")
    bob.say("while you were away")
    expect(ada.page.get_by_role("button", name="1 new message")).to_be_visible()
    expect(ada.message("message 1")).to_be_in_viewport()
    ada.page.get_by_role("button", name="1 new message").click()
    expect(ada.message("while you were away")).to_be_in_viewport()
    expect(ada.message("while you were away")).to_be_focused()
    expect(ada.page.get_by_role("button", name="new message")).to_be_hidden()
    seqs = ada.page.locator(".message").evaluate_all("nodes => nodes.map(node => Number(node.dataset.seq))")
    assert seqs == list(range(seqs[0], 422))


SCROLL_UP_AND_SEE_WHAT_MOVES = """() => new Promise((resolve) => {
    const log = document.querySelector("[data-log]");
    const list = document.querySelector("[data-messages]");
    const isVisible = (node) => node.getBoundingClientRect().bottom > log.getBoundingClientRect().top;
    const visible = () => [...list.children].find(isVisible);
    let anchor, before;
    new MutationObserver((_, observer) => {
        observer.disconnect();
        requestAnimationFrame(() => resolve(anchor.getBoundingClientRect().top - before));
    }).observe(list, {childList: true});
    log.scrollTop = -(log.scrollHeight - log.clientHeight) + 100;
    anchor = visible();
    before = anchor.getBoundingClientRect().top;
})"""

SCROLL_TO_THE_BEGINNING = """async (log) => {
    const beginning = log.querySelector("[data-beginning]");
    const deadline = Date.now() + 20000;
    while (beginning.hidden && Date.now() < deadline) {
        log.scrollTop = -log.scrollHeight;
        await new Promise(requestAnimationFrame);
    }
    log.scrollTop = -log.scrollHeight;
}"""


def test_a_reader_further_up_is_not_moved_and_a_writer_is_taken_to_the_end(ada: Guest, bob: Guest) -> None:
    conversation = ada.find(bob)
    ada.write_history(conversation, *(f"message {number}" for number in range(1, 41)))
    bob.open("Ada Lovelace")
    bob.sees("message 40")
    log = bob.page.locator("[data-log]")
    log.evaluate("log => { log.scrollTop = -500; }")
    top = y_of(bob.message("message 20"))
    ada.say("news")
    expect(bob.page.get_by_role("button", name="1 new message")).to_be_visible()
    assert abs(y_of(bob.message("message 20")) - top) <= 1
    bob.say("mine")
    expect(bob.message("mine")).to_be_in_viewport()


def y_of(shown: Locator) -> float:
    box = shown.bounding_box()
    assert box is not None
    return box["y"]


def test_unread_messages_are_counted_marked_and_cleared_everywhere(ada: Guest, bob: Guest) -> None:
    conversation = ada.find(bob)
    ada.say("first")
    bob.open("Ada Lovelace")
    bob.sees("first")
    expect(bob.page).to_have_title("Ada Lovelace · Chat")
    bob.page.goto(f"{bob.url}/")
    bob.connected()
    ada.say("second", "third", "fourth")
    expect(bob.page).to_have_title("(3) Conversations · Chat")
    expect(bob.row("Ada Lovelace").locator(".badge")).to_have_text("3 unread")

    other = bob.new_page()
    other.goto(conversation.replace(ada.url, bob.url))
    bob.sees("second", "third", "fourth", page=other)
    expect(other.locator(".unread-line:visible")).to_have_count(1)
    assert other.locator(".message:has(.unread-line:not([hidden])) .text").inner_text() == "second"
    expect(bob.page).to_have_title("Conversations · Chat")  # this tab hears of it
    expect(bob.row("Ada Lovelace").locator(".badge")).to_be_hidden()


def test_what_is_written_before_the_tab_closes_is_sent_by_the_next_one(ada: Guest, bob: Guest) -> None:
    conversation = ada.find(bob)
    ada.say("here")
    ada.sees("here")
    ada.expected = OFFLINE
    ada.context.set_offline(True)
    ada.say("kept 1", "kept 2")
    expect(ada.message("kept 2")).to_have_attribute("data-state", "pending")
    ada.page.wait_for_function(NO_DRAFT_IS_LEFT)
    ada.page.close()
    ada.context.set_offline(False)
    ada.page = ada.new_page()
    ada.page.goto(f"{ada.url}/new/")  # any page of the chat sends what waits
    bob.open("Ada Lovelace")
    bob.sees("here", "kept 1", "kept 2")
    ada.page.goto(conversation)
    ada.sees("here", "kept 1", "kept 2")
    assert ada.texts() == bob.texts() == ["here", "kept 1", "kept 2"]


def test_several_tabs_show_the_same_and_send_each_message_once(ada: Guest, bob: Guest) -> None:
    conversation = ada.find(bob)
    second = ada.new_page()
    second.goto(conversation)
    ada.connected(second)
    ada.say("from the first tab")
    ada.sees("from the first tab", page=second)
    ada.expected = OFFLINE
    ada.context.set_offline(True)
    ada.say("offline in the first")
    expect(ada.message("offline in the first", second)).to_have_attribute("data-state", "pending")
    ada.say("offline in the second", page=second)
    expect(ada.message("offline in the second")).to_have_attribute("data-state", "pending")
    ada.context.set_offline(False)
    everything = ["from the first tab", "offline in the first", "offline in the second"]
    bob.open("Ada Lovelace")
    for person, page in ((ada, ada.page), (ada, second), (bob, bob.page)):
        person.sees(*everything, page=page)
        assert person.texts(page) == everything


def test_a_refused_message_says_why_and_can_be_tried_again_or_deleted(ada: Guest, bob: Guest) -> None:
    ada.find(bob)
    ada.say("hello")
    ada.sees("hello")
    bob.page.on("dialog", lambda dialog: dialog.accept())
    bob.open("Ada Lovelace")
    bob.page.get_by_role("link", name="Members").click()
    bob.page.get_by_role("button", name="Block Ada Lovelace").click()
    bob.page.wait_for_url("**/settings/")
    ada.say("refused 1", "refused 2")
    for text in ("refused 1", "refused 2"):
        expect(ada.message(text)).to_have_attribute("data-state", "failed")
    expect(ada.message("refused 1")).to_contain_text("Not sent. One of you has blocked the other.")
    ada.page.reload()
    ada.message("refused 2").get_by_role("button", name="Delete").click()
    expect(ada.message("refused 2")).to_have_count(0)
    bob.page.get_by_role("button", name=f"Unblock {ada.username}").click()
    expect(bob.page.get_by_text("is no longer blocked")).to_be_visible()
    ada.message("refused 1").get_by_role("button", name="Try again").click()
    ada.sees("refused 1")
    bob.open("Ada Lovelace")
    bob.sees("hello", "refused 1")
    assert bob.texts() == ["hello", "refused 1"]


def test_presence_is_shown_as_a_dot_and_in_words(ada: Guest, bob: Guest) -> None:
    ada.find(bob)
    header = ada.page.locator("header .presence")
    expect(header).to_have_text("online")
    expect(ada.row("Bob Kahn").locator(".dot")).to_be_visible()
    bob.page.close()
    expect(header).to_have_text("last seen just now")
    expect(ada.row("Bob Kahn").locator(".dot")).to_be_hidden()


def test_drafts_are_kept_and_keys_do_what_people_expect(ada: Guest, bob: Guest, eve: Guest) -> None:
    ada.find(eve)
    conversation = ada.find(bob)
    box = ada.page.get_by_label("Message to Bob Kahn")
    expect(box).to_be_focused()
    box.press_sequentially("two")
    box.press("Shift+Enter")
    box.press_sequentially("lines")
    ada.page.keyboard.press("Control+k")
    switcher = ada.page.get_by_role("combobox", name="Name of a conversation")
    switcher.fill("evb")
    expect(ada.page.get_by_role("option", selected=True)).to_have_text("Eve Boyd")
    switcher.press("Enter")
    expect(ada.page.get_by_role("heading", name="Eve Boyd")).to_be_visible()
    expect(ada.row("Bob Kahn")).to_contain_text("Draft")
    ada.page.goto(conversation)
    expect(box).to_have_value("two\nlines")
    box.press("Enter")
    expect(box).to_have_value("")
    expect(ada.page.locator(".message .text")).to_have_text(["two\nlines"])
    box.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    box.fill("x" * 8_001)
    box.press("Enter")
    expect(ada.page.get_by_text("This is 1 characters too long.")).to_be_visible()


def test_what_people_write_is_text_whatever_it_looks_like(ada: Guest, bob: Guest) -> None:
    conversation = ada.find(bob)
    nasty = [
        "<script>window.pwned = 1</script>",
        "<img src=x onerror='window.pwned = 1'>",
        "javascript:window.pwned=1",
        'https://example.org/"onmouseover="window.pwned=1',
        "{{ 7|add:7 }} {% now %} ${window.pwned = 1}",
        "</template></li><h1>out</h1>",
    ]
    ada.say(*nasty)
    ada.sees(*nasty[:1])
    bob.open("Ada Lovelace")
    expect(bob.page.locator(".message .text")).to_have_text(nasty)
    ada.page.goto(conversation)
    expect(ada.page.locator(".message .text")).to_have_text(nasty)
    assert ada.page.locator(".message a").all_inner_texts() == ["https://example.org/"]
    for person in (ada, bob):
        assert person.page.evaluate("window.pwned") is None


def test_a_node_that_dies_is_waited_for_and_nothing_is_lost(ada: Guest, bob: Guest, installation: Installation) -> None:
    ada.find(bob)
    bob.open("Ada Lovelace")
    ada.expected = NODE_IS_DOWN
    node = installation.nodes[0]
    node.kill()
    expect(ada.page.get_by_text("No connection.")).to_be_visible()
    ada.say("into the void")
    bob.say("said on the other node")
    node.start()
    node.wait_until_ready()
    ada.page.get_by_role("button", name="Try now").or_(ada.page.locator("html[data-connection=open]")).first.click()
    for person in (ada, bob):
        person.sees("said on the other node", "into the void")
        assert person.texts() == ["said on the other node", "into the void"]


def test_a_session_that_ends_leads_to_the_login_and_keeps_what_was_written(
    ada: Guest, bob: Guest, guest: Callable[..., Guest]
) -> None:
    ada.find(bob)
    ada.page.get_by_label("Message to Bob Kahn").fill("half a tho")
    elsewhere = guest(node=1)
    elsewhere.log_in(ada.username)
    elsewhere.page.goto(f"{elsewhere.url}/settings/")
    elsewhere.page.get_by_role("button", name="End all others").click()
    expect(ada.page.get_by_text("Your session has ended.")).to_be_visible()
    ada.page.get_by_label("Username").fill(ada.username)
    ada.page.get_by_label("Password").fill("correct horse battery")
    ada.page.get_by_role("main").get_by_role("button", name="Log in").click()
    expect(ada.page.get_by_label("Message to Bob Kahn")).to_have_value("half a tho")


def test_who_is_banned_is_told_so_and_does_not_come_back(ada: Guest, installation: Installation) -> None:
    ada.connected()
    deactivate = f"accounts.deactivate(User.objects.get(username={ada.username!r}))"
    imports = "from apps.accounts import services as accounts; from apps.accounts.models import User"
    installation.manage("shell", "--no-imports", "-c", f"{imports}; {deactivate}")
    expect(ada.page.get_by_role("heading", name="This account is closed")).to_be_visible()
    ada.page.reload()
    expect(ada.page.get_by_role("heading", name="Log in")).to_be_visible()


def test_who_is_removed_while_away_finds_the_conversation_gone(ada: Guest, bob: Guest) -> None:
    ada.make_group("Release team", bob)
    bob.open("Release team")
    bob.expected = OFFLINE
    bob.context.set_offline(True)
    expect(bob.page.get_by_text("You are offline.")).to_be_visible()
    ada.page.get_by_role("link", name="Members").click()
    ada.page.on("dialog", lambda dialog: dialog.accept())
    ada.page.get_by_role("button", name="Remove Bob Kahn").click()
    expect(ada.page.get_by_role("button", name="Remove Bob Kahn")).to_have_count(0)
    bob.context.set_offline(False)
    expect(bob.page.get_by_text("You are no longer in this group.")).to_be_visible()
    expect(bob.row("Release team")).to_have_count(0)


def test_the_colours_are_chosen_once_for_all_pages(guest: Callable[..., Guest]) -> None:
    nobody = guest()
    nobody.page.emulate_media(color_scheme="light")
    nobody.page.goto(f"{nobody.url}/accounts/login/")
    background = "getComputedStyle(document.body).backgroundColor"
    light = nobody.page.evaluate(background)
    nobody.page.get_by_role("button", name="Light or dark colours").click()
    assert nobody.page.evaluate(background) != light
    nobody.page.goto(f"{nobody.url}/accounts/signup/")
    assert nobody.page.evaluate(background) != light


def test_without_javascript_one_can_log_in_read_and_write(ada: Guest, bob: Guest, guest: Callable[..., Guest]) -> None:
    conversation = ada.find(bob)
    ada.write_history(conversation, *(f"message {number}" for number in range(1, 61)))
    plain = guest(node=1, java_script_enabled=False)
    plain.log_in(bob.username)
    plain.row("Ada Lovelace").get_by_role("link").click()
    expect(plain.page.locator(".message")).to_have_count(50)
    expect(plain.message("message 60")).to_be_in_viewport()
    plain.page.get_by_label("Message to Ada Lovelace").fill("by form")
    plain.page.get_by_role("button", name="Send").click()
    expect(plain.message("by form")).to_be_in_viewport()
    plain.page.get_by_role("link", name="Older messages").click()
    plain.sees("message 1")
    plain.page.get_by_role("link", name="To the newest messages").click()
    plain.sees("by form")
    ada.sees("by form")


# What has been sent is a draft until it is safe in the outbox.
NO_DRAFT_IS_LEFT = "() => !Object.keys(localStorage).some((key) => key.startsWith('draft-'))"

WIDTHS = ((1280, 800), (390, 780))


def test_every_page_looks_right_light_and_dark_wide_and_narrow(
    ada: Guest, bob: Guest, eve: Guest, guest: Callable[..., Guest], artefacts: Path
) -> None:
    nobody = guest()
    for name, path in (("login", "accounts/login/"), ("signup", "accounts/signup/")):
        nobody.page.goto(f"{nobody.url}/{path}")
        photograph(nobody.page, artefacts, name)
    ada.connected()
    photograph(ada.page, artefacts, "empty")
    ada.find(bob)
    ada.say("Good morning! Did the import finish?", "I saw some warnings in the log: https://example.org/log")
    bob.open("Ada Lovelace")
    bob.say("Morning. It did: 40 million rows, none lost.", "Summary:\n  parsed   40,112,904\n  skipped  0")
    ada.sees("Morning. It did: 40 million rows, none lost.")
    photograph(ada.page, artefacts, "direct")
    ada.page.goto(f"{ada.url}/new/?q=b")
    photograph(ada.page, artefacts, "new")
    ada.page.get_by_label("Name of the group").fill("Release team")
    ada.page.get_by_label(re.compile("^Usernames")).fill(f"{bob.username} {eve.username}")
    ada.page.get_by_role("button", name="Make the group").click()
    ada.connected()
    ada.say("Welcome both")
    eve.open("Release team")
    eve.say("Glad to be here", "When do we ship?", "\u05e9\u05dc\u05d5\u05dd \u05dc\u05db\u05d5\u05dc\u05dd")
    ada.sees("When do we ship?")
    photograph(ada.page, artefacts, "group")
    ada.page.get_by_role("link", name="Members").click()
    ada.connected()
    photograph(ada.page, artefacts, "members")
    for name, path in (("conversations", ""), ("settings", "settings/")):
        ada.page.goto(f"{ada.url}/{path}")
        photograph(ada.page, artefacts, name)
    ada.expected = "404"
    ada.page.goto(f"{ada.url}/c/00000000-0000-4000-8000-000000000000/")
    photograph(ada.page, artefacts, "problem")
    bob.expected = OFFLINE
    bob.context.set_offline(True)
    bob.say("Written offline")
    expect(bob.page.get_by_text("You are offline.")).to_be_visible()
    photograph(bob.page, artefacts, "offline")


def photograph(page: Page, artefacts: Path, name: str) -> None:
    """A picture in each theme and width, none of which may scroll sideways."""
    for width, height in WIDTHS:
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.screenshot(path=artefacts / f"{name}-{scheme}-{width}.png")
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320, name
    page.set_viewport_size({"width": 1280, "height": 800})

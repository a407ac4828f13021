"""The pages as a browser without JavaScript has them."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.test import AsyncClient
from django.utils import timezone

from apps.accounts.people import Person
from apps.conversations import reads, services
from apps.conversations.errors import Unavailable
from apps.conversations.history import log
from apps.conversations.messages import MAX_CONTENT_CHARS, Draft
from apps.conversations.models import Membership
from tests.embedded import Client


class Visitor:
    """A person's browser. `html` is the page that it shows."""

    def __init__(self, client: Client) -> None:
        self.person = client.person
        self._http = AsyncClient()
        self._user = client.user
        self.status = 0
        self.headers: Any = {}
        self.html = ""
        self.address = ""

    async def arrive(self) -> "Visitor":
        await sync_to_async(self._http.force_login)(self._user)
        return self

    async def get(self, path: str, **query: Any) -> "Visitor":
        return self._show(await self._http.get(path, query), path)

    async def post(self, path: str, **form: Any) -> "Visitor":
        """Follows to the page after it."""
        answer = self._show(await self._http.post(path, form), path)
        return await self.get(self.address) if self.status == 302 else answer

    def _show(self, answer: Any, path: str) -> "Visitor":
        self.status, self.headers, self.html = answer.status_code, answer.headers, answer.content.decode()
        self.address = answer.headers.get("Location", path)
        return self

    @property
    def text(self) -> str:
        visible = re.sub(r"<template.*?</template>|<[^>]+>", " ", self.html, flags=re.DOTALL)
        return " ".join(unescape(visible).split())

    @property
    def messages(self) -> list[str]:
        shown = re.sub(r"<template.*?</template>", "", self.html, flags=re.DOTALL)
        return [unescape(each) for each in re.findall(r'<p class="text" dir="auto">(.*?)</p>', shown, re.DOTALL)]

    def value_of(self, field: str) -> str:
        found = re.search(rf'name="{field}" value="([^"]*)"', self.html)
        assert found is not None, field
        return unescape(found[1])


@pytest.fixture
async def ada_visits(ada: Client) -> Visitor:
    return await Visitor(ada).arrive()


@pytest.fixture
async def bob_visits(bob: Client) -> Visitor:
    return await Visitor(bob).arrive()


@pytest.fixture
async def conversation_id(ada: Client, bob: Client) -> UUID:
    return (await services.direct_conversation(ada.person, "bob"))[0]


@pytest.fixture
async def group_id(ada: Client, bob: Client) -> UUID:
    return await services.create_group(ada.person, "Friends", ["bob"])


async def say(client: Client, conversation_id: UUID, *texts: str) -> None:
    for text in texts:
        await services.send_message(Draft(conversation_id, client.person.id, uuid4(), text))


# --- who may come in -------------------------------------------------------------------------------------------------
async def test_every_page_asks_strangers_to_log_in(chat: None) -> None:
    for path in ("/", "/new/", f"/c/{uuid4()}/", f"/c/{uuid4()}/members/"):
        answer = await AsyncClient().get(path)
        assert answer.status_code == 302
        assert answer.headers["Location"] == f"/accounts/login/?next={path}"


async def test_pages_are_kept_by_no_cache(ada_visits: Visitor) -> None:
    assert "no-store" in (await ada_visits.get("/")).headers["Cache-Control"]


async def test_forms_need_their_csrf_token(ada: Client, conversation_id: UUID) -> None:
    browser = AsyncClient(enforce_csrf_checks=True)
    await sync_to_async(browser.force_login)(ada.user)
    form = {"content": "hello", "client_msg_id": str(uuid4())}
    assert (await browser.post(f"/c/{conversation_id}/", form)).status_code == 403
    assert await (await log()).latest([conversation_id]) == {}


# --- the list --------------------------------------------------------------------------------------------------------
async def test_a_new_person_is_told_what_to_do_next(ada_visits: Visitor) -> None:
    page = await ada_visits.get("/")
    assert "You have no conversations yet." in page.text
    assert 'href="/new/"' in page.html


async def test_the_list_shows_who_said_what_and_how_much_is_unread(
    ada: Client, bob_visits: Visitor, conversation_id: UUID, group_id: UUID
) -> None:
    await say(ada, conversation_id, "first", "second")
    page = await bob_visits.get("/")
    assert re.search(r"Ada .* second .* 2 unread", page.text)
    assert re.search(r"Friends .* 1 unread", page.text)
    assert page.text.index("second") < page.text.index("Friends")  # the most recent first


async def test_the_list_goes_on_after_its_first_page(
    ada: Client, ada_visits: Visitor, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await services.create_group(ada.person, f"Group {number}", ["bob"])
    whole = reads.conversations_page

    async def two(actor: Person, cursor: str | None) -> Any:
        return await whole(actor, cursor, 2)

    monkeypatch.setattr(reads, "conversations_page", two)
    first = await ada_visits.get("/")
    assert "Group 2" in first.text and "Group 0" not in first.text
    more = re.search(r'href="\?cursor=([^"]+)">Older conversations', first.html)
    assert more is not None
    second = await ada_visits.get(f"/?cursor={more[1]}")
    assert "Group 0" in second.text and "Group 2" not in second.text


async def test_who_is_removed_while_the_list_is_read_sees_the_rest(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, goes = [await services.create_group(ada.person, title, ["bob"]) for title in ("Stays", "Goes")]
    read = reads._places_of

    def places_of(user_id: UUID) -> Any:
        places = read(user_id)
        Membership.objects.filter(conversation_id=goes, user_id=user_id).update(left_at=timezone.now())
        return places

    monkeypatch.setattr(reads, "_places_of", places_of)
    page, _ = await reads.conversations_page(bob.person)
    assert [shown.id for shown in page] == [stays]


async def test_a_rubbish_cursor_is_answered_with_a_page(ada_visits: Visitor) -> None:
    assert (await ada_visits.get("/", cursor="rubbish")).status == 400


# --- a conversation --------------------------------------------------------------------------------------------------
async def test_the_last_fifty_are_shown_and_older_ones_by_a_link(
    ada: Client, ada_visits: Visitor, conversation_id: UUID
) -> None:
    await say(ada, conversation_id, *(f"message {number}" for number in range(1, 61)))
    page = await ada_visits.get(f"/c/{conversation_id}/")
    assert page.messages == [f"message {number}" for number in range(11, 61)]
    assert 'href="?before=11"' in page.html
    older = await ada_visits.get(f"/c/{conversation_id}/", before=11)
    assert older.messages == [f"message {number}" for number in range(1, 11)]
    assert "To the newest messages" in older.text
    assert "Older messages" not in older.text


async def test_unread_messages_begin_below_a_line_until_they_are_marked_as_read(
    ada: Client, bob: Client, bob_visits: Visitor, conversation_id: UUID
) -> None:
    await say(ada, conversation_id, "old")
    await services.mark_read(bob.person, conversation_id, 1)
    await say(ada, conversation_id, "new", "newer")
    page = await bob_visits.get(f"/c/{conversation_id}/")
    lines = re.findall(r'data-seq="(\d+)"(?:(?!data-seq).)*?<p class="unread-line">', page.html, re.DOTALL)
    assert lines == ["2"]
    await bob_visits.post(f"/c/{conversation_id}/read/", seq="3")
    assert "New messages" not in re.sub(r"<p [^>]*hidden>.*?</p>", "", (await bob_visits.get("/")).html)
    assert (await reads.conversation(bob.person, conversation_id)).unread_count == 0


async def test_a_form_sends_a_message_and_a_form_sent_twice_sends_one(
    ada_visits: Visitor, conversation_id: UUID
) -> None:
    path = f"/c/{conversation_id}/"
    form = {"content": " Hello\r\nBob ", "client_msg_id": (await ada_visits.get(path)).value_of("client_msg_id")}
    assert (await ada_visits.post(path, **form)).messages == ["Hello\nBob"]
    assert (await ada_visits.post(path, **form)).messages == ["Hello\nBob"]
    assert ada_visits.value_of("client_msg_id") != form["client_msg_id"]


@pytest.mark.parametrize("content", ["", "  \n ", "x" * (MAX_CONTENT_CHARS + 1), "a\x00b"])
async def test_what_cannot_be_sent_is_explained_and_not_thrown_away(
    ada_visits: Visitor, conversation_id: UUID, content: str
) -> None:
    page = await ada_visits.post(f"/c/{conversation_id}/", content=content, client_msg_id=str(uuid4()))
    assert page.status == 400
    assert "Your message was not sent" in page.text
    assert content.strip()[:100] in page.html


async def test_while_the_history_is_away_the_text_waits_in_a_form_under_its_id(
    ada_visits: Visitor, conversation_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The history is away; try again.", retry_after_ms=1_500)

    client_msg_id = str(uuid4())
    path = f"/c/{conversation_id}/"
    monkeypatch.setattr(await log(), "append", away)
    page = await ada_visits.post(path, content="keep <me>", client_msg_id=client_msg_id)
    assert page.status == 503
    assert page.headers["Retry-After"] == "2"
    assert page.value_of("client_msg_id") == client_msg_id
    assert "keep &lt;me&gt;</textarea>" in page.html
    monkeypatch.undo()
    assert (await ada_visits.post(path, content="keep <me>", client_msg_id=client_msg_id)).messages == ["keep <me>"]


@pytest.mark.parametrize("path", ["/", "/new/", "/c/{id}/", "/c/{id}/members/"])
async def test_reading_says_so_too_while_the_history_is_away(
    ada_visits: Visitor, conversation_id: UUID, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The history is away; try again.", retry_after_ms=1_000)

    monkeypatch.setattr(await log(), "latest", away)
    page = await ada_visits.get(path.format(id=conversation_id))
    assert page.status == 503
    assert page.headers["Retry-After"] == "1"
    assert "The history is away" in page.text


async def test_a_conversation_of_others_and_one_that_is_none_look_the_same(eve: Client, conversation_id: UUID) -> None:
    visitor = await Visitor(eve).arrive()
    for method in (visitor.get, visitor.post):
        pages = [await method(f"/c/{each}/members/") for each in (conversation_id, uuid4())]
        assert [page.status for page in pages] == [404, 404]
        texts = [re.sub(r'value="[^"]+"|[0-9a-f-]{36}', "", page.text) for page in pages]
        assert texts[0] == texts[1]
    sent = await visitor.post(f"/c/{conversation_id}/", content="hello", client_msg_id=str(uuid4()))
    assert sent.status == 404
    assert (await visitor.get(f"/c/{conversation_id}/")).status == 404


@pytest.mark.parametrize("before", ["0", "-1", "x", "1e9", "9" * 30, "\u0661"])
async def test_a_rubbish_place_in_the_log_is_answered_with_a_page(
    ada_visits: Visitor, conversation_id: UUID, before: str
) -> None:
    assert (await ada_visits.get(f"/c/{conversation_id}/", before=before)).status == 400


async def test_a_form_without_its_id_is_not_guessed_at(ada_visits: Visitor, conversation_id: UUID) -> None:
    page = await ada_visits.post(f"/c/{conversation_id}/", content="hello", client_msg_id="rubbish")
    assert page.status == 400
    assert await (await log()).latest([conversation_id]) == {}


# --- starting one ----------------------------------------------------------------------------------------------------
async def test_people_are_found_by_name_and_one_press_opens_the_conversation(ada_visits: Visitor, bob: Client) -> None:
    assert "@bob" in (await ada_visits.get("/new/", q="Bo")).text
    assert "name begins with “zz”" in (await ada_visits.get("/new/", q="zz")).text
    page = await ada_visits.post("/new/", kind="direct", username="bob")
    assert page.address.startswith("/c/")
    assert '<h1 dir="auto" data-title>Bob</h1>' in page.html
    assert (await ada_visits.post("/new/", kind="direct", username="bob")).address == page.address


async def test_a_group_is_made_of_ticked_and_of_typed_names(ada_visits: Visitor, bob: Client, eve: Client) -> None:
    page = await ada_visits.post("/new/", kind="group", title="Friends", person=["bob"], people=" @Eve, ")
    assert page.messages == ["Ada created the group “Friends”"]
    assert "3 members" in page.text


@pytest.mark.parametrize(
    ("form", "status", "said"),
    [
        ({"kind": "direct", "username": "nobody"}, 404, "There is nobody called 'nobody'."),
        ({"kind": "direct", "username": "ada"}, 403, "yourself"),
        ({"kind": "group", "title": "Friends", "people": "nobody"}, 404, "There is nobody called 'nobody'."),
        ({"kind": "group", "title": "Friends", "people": "ada"}, 400, "A group needs someone besides yourself."),
        ({"kind": "group", "title": " ", "people": "bob"}, 400, "A group has a title"),
    ],
)
async def test_what_cannot_be_started_is_explained_above_the_form(
    ada_visits: Visitor, bob: Client, form: dict[str, str], status: int, said: str
) -> None:
    page = await ada_visits.post("/new/", **form)
    assert page.status == status
    assert said in page.text
    if form["kind"] == "group":
        assert page.value_of("people") == form["people"]
    assert await Membership.objects.acount() == 0


# --- members ---------------------------------------------------------------------------------------------------------
async def test_an_owner_renames_adds_promotes_removes_hands_over_and_leaves(
    ada_visits: Visitor, bob_visits: Visitor, eve: Client, group_id: UUID
) -> None:
    path = f"/c/{group_id}/members/"
    assert "Best friends" in (await ada_visits.post(path, action="rename", title="Best friends")).text
    assert "@eve" in (await ada_visits.post(path, action="add", username="@eve")).text
    assert "@eve · admin" in (await ada_visits.post(path, action="admin", username="eve")).text
    assert "@eve" not in (await ada_visits.post(path, action="remove", username="eve")).text
    assert "@bob · owner" in (await ada_visits.post(path, action="owner", username="bob")).text
    left = await ada_visits.post(path, action="leave")
    assert left.address == "/"
    assert "You have left the group." in left.text
    assert (await ada_visits.get(f"/c/{group_id}/")).status == 403
    story = (await bob_visits.get(f"/c/{group_id}/")).messages
    assert story[-1] == "Ada left"
    assert len(story) == 7


async def test_a_member_sees_who_is_in_it_and_may_only_leave(bob_visits: Visitor, group_id: UUID) -> None:
    page = await bob_visits.get(f"/c/{group_id}/members/")
    assert "@ada · owner" in page.text
    assert "Leave the group" in page.text
    for hidden in ("Remove", "Make an admin", "Hand over", "Rename"):
        assert hidden not in page.text
    refused = await bob_visits.post(f"/c/{group_id}/members/", action="rename", title="Mine")
    assert refused.status == 403
    assert "Only an owner or admin may do this." in refused.text


async def test_adding_nobody_keeps_what_was_typed(ada_visits: Visitor, group_id: UUID) -> None:
    page = await ada_visits.post(f"/c/{group_id}/members/", action="add", username="nobody")
    assert page.status == 404
    assert "There is nobody called 'nobody'." in page.text
    assert 'id="add" name="username" value="nobody"' in page.html


async def test_rubbish_actions_change_nothing(ada_visits: Visitor, group_id: UUID) -> None:
    for form in ({}, {"action": "destroy"}, {"action": "owner"}, {"action": "admin", "username": "eve"}):
        assert (await ada_visits.post(f"/c/{group_id}/members/", **form)).status in (400, 404)


async def test_a_direct_conversation_offers_a_block_instead(ada_visits: Visitor, conversation_id: UUID) -> None:
    page = await ada_visits.get(f"/c/{conversation_id}/members/")
    assert "Block Bob" in page.text
    assert "Leave the group" not in page.text


# --- what stands in the page -----------------------------------------------------------------------------------------
async def test_names_and_messages_are_escaped(ada: Client, bob_visits: Visitor, conversation_id: UUID) -> None:
    nasty = '<script>alert(1)</script> & "quotes" {{ 7|add:7 }}'
    await say(ada, conversation_id, nasty)
    await sync_to_async(lambda: type(ada.user).objects.filter(id=ada.person.id).update(display_name="<b>Ada</b>"))()
    for path in ("/", f"/c/{conversation_id}/", f"/c/{conversation_id}/members/", "/new/?q=<b>"):
        page = await bob_visits.get(path)
        assert "<script>alert" not in page.html
        assert "<b>" not in page.html
    assert (await bob_visits.get(f"/c/{conversation_id}/")).messages == [nasty]


async def test_no_page_has_a_script_or_a_style_in_it(
    ada: Client, ada_visits: Visitor, conversation_id: UUID, group_id: UUID
) -> None:
    await say(ada, conversation_id, "hello")
    pages = ["/", "/new/?q=b", f"/c/{conversation_id}/", f"/c/{group_id}/members/", f"/c/{uuid4()}/", "/settings/"]
    for path in pages:
        page = await ada_visits.get(path)
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page.html), path
        assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"]


@pytest.fixture
def static_text() -> Callable[[str], str]:
    root = django_settings.BASE_DIR / "static" / "chat"
    return lambda pattern: "\n".join(path.read_text() for path in sorted(root.rglob(pattern)))


def test_modules_put_text_into_the_page_and_never_markup(static_text: Callable[[str], str]) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", static_text("*.js"))


def test_every_import_ends_in_a_semicolon_for_the_manifest(static_text: Callable[[str], str]) -> None:
    imports = re.findall(r"^import .*|^\} from .*", static_text("*.js"), re.MULTILINE)
    assert imports
    assert all(re.search(r'"\.\.?/[\w./]+\.js";$', line) for line in imports)

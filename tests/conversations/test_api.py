"""REST as its clients see it, over the whole chat in one process."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.db import OperationalError
from django.test import AsyncClient
from redis.exceptions import RedisError

from apps.accounts import services as accounts
from apps.accounts.models import ApiToken, User
from apps.conversations.errors import Unavailable
from apps.conversations.history import log
from apps.conversations.messages import MAX_CONTENT_CHARS
from chatproject.asgi import application
from tests.embedded import PASSWORD, Client, sign_up


async def direct(one: Client, other: Client) -> str:
    made = await one.post("conversations", {"kind": "direct", "members": [other.person.username]})
    assert made.status_code in (200, 201), made.content
    return str(made.json()["id"])


async def group(owner: Client, *others: Client, title: str = "Friends") -> str:
    members = [other.person.username for other in others]
    made = await owner.post("conversations", {"kind": "group", "title": title, "members": members})
    assert made.status_code == 201, made.content
    return str(made.json()["id"])


async def say(client: Client, conversation_id: str, content: str, client_msg_id: UUID | None = None) -> Any:
    body = {"content": content, "client_msg_id": client_msg_id or uuid4()}
    return await client.post(f"conversations/{conversation_id}/messages", body)


async def contents(client: Client, conversation_id: str, **query: Any) -> list[str]:
    page = await client.get(f"conversations/{conversation_id}/messages", **query)
    assert page.status_code == 200, page.content
    return [message["content"] for message in page.json()["results"]]


def problem(response: Any, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """The response is this problem, and says where."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["title"] and body["detail"] and body["type"]
    pointers = [error["pointer"] for error in body["errors"]]
    assert pointers and (pointer is None or pointer in pointers), pointers
    return body


# --- who I am --------------------------------------------------------------------------------------------------------
async def test_a_username_and_password_give_a_token_that_opens_the_api(ada: Client, anyone: Client) -> None:
    given = await anyone.post("auth/token", {"username": "Ada", "password": PASSWORD})
    assert given.status_code == 200
    me = await Client(token=given.json()["token"]).get("users/me")
    assert me.json() == {"id": str(ada.person.id), "username": "ada", "display_name": "Ada"}
    assert me["Cache-Control"] == "no-store"


@pytest.mark.parametrize("username", ["ada", "nobody"])
async def test_a_wrong_password_and_an_unknown_name_look_the_same(ada: Client, anyone: Client, username: str) -> None:
    refused = await anyone.post("auth/token", {"username": username, "password": "wrong"})
    body = problem(refused, 401, "authentication_failed")
    assert body["detail"] == "This username and password do not fit."
    assert refused["WWW-Authenticate"] == "Bearer"


async def test_an_unknown_name_costs_as_much_hashing_as_a_known_one(
    ada: Client, anyone: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    monkeypatch.setattr(
        "django.contrib.auth.hashers.MD5PasswordHasher.encode", lambda *given: hashed.append(given) or "md5$x$x"
    )
    for username in ("ada", "nobody"):
        hashed.clear()
        await anyone.post("auth/token", {"username": username, "password": "wrong"})
        assert len(hashed) == 1


async def test_guessing_passwords_is_stopped(ada: Client, anyone: Client) -> None:
    answers = [await anyone.post("auth/token", {"username": "ada", "password": f"wrong {n}"}) for n in range(12)]
    assert answers[0].status_code == 401
    problem(answers[-1], 429, "rate_limited")
    assert int(answers[-1]["Retry-After"]) >= 1
    assert (await anyone.post("auth/token", {"username": "ada", "password": PASSWORD})).status_code == 429


async def test_a_token_that_has_ended_opens_nothing_and_does_not_hinder_the_next_login(ada: Client) -> None:
    assert (await ada.delete("auth/token")).status_code == 204
    refused = await ada.get("users/me")
    problem(refused, 401, "authentication_failed")
    assert refused["WWW-Authenticate"] == "Bearer"
    assert (await ada.post("auth/token", {"username": "ada", "password": PASSWORD})).status_code == 200


async def test_ending_a_token_leaves_the_others(ada: Client, anyone: Client) -> None:
    other = (await anyone.post("auth/token", {"username": "ada", "password": PASSWORD})).json()["token"]
    await Client(token=other).delete("auth/token")
    assert (await ada.get("users/me")).status_code == 200
    assert await ApiToken.objects.acount() == 1


async def test_who_is_deactivated_gets_in_nowhere(ada: Client, anyone: Client) -> None:
    await User.objects.filter(username="ada").aupdate(is_active=False)
    problem(await ada.get("users/me"), 401, "authentication_failed")
    problem(await anyone.post("auth/token", {"username": "ada", "password": PASSWORD}), 401, "authentication_failed")


async def test_without_credentials_only_login_and_sign_up_and_the_schema_answer(anyone: Client) -> None:
    for path in ("users/me", "users", "conversations", f"conversations/{uuid4()}", "presence", "users/me/devices"):
        problem(await anyone.get(path), 401, "not_authenticated")
    assert (await anyone.get("schema")).status_code == 200


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer nonsense", "Bearer \xff", "bearer a b c"])
async def test_a_token_that_is_none_is_refused(anyone: Client, header: str) -> None:
    anyone.headers = {"Authorization": header}
    problem(await anyone.get("users/me"), 401, "authentication_failed")


async def test_a_token_in_the_address_is_no_token(ada: Client, anyone: Client) -> None:
    token = ada.headers["Authorization"].removeprefix("Bearer ")
    assert (await anyone.get("users/me", token=token)).status_code == 401


async def test_a_session_reads_freely_and_writes_only_with_its_csrf_token(ada: Client) -> None:
    browser = AsyncClient(enforce_csrf_checks=True)
    await sync_to_async(browser.force_login)(ada.user)
    assert (await browser.get("/api/v1/users/me")).status_code == 200
    change = {"path": "/api/v1/users/me", "data": {"display_name": "Countess"}, "content_type": "application/json"}
    problem(await browser.patch(**change), 403, "csrf_failed")
    browser.cookies["csrftoken"] = "a" * 32
    assert (await browser.patch(**change, headers={"X-CSRFToken": "a" * 32})).status_code == 200


# --- signing up ------------------------------------------------------------------------------------------------------
NEW = {"username": "grace", "password": PASSWORD, "display_name": "Grace"}


async def test_signing_up_makes_a_person_who_can_log_in(anyone: Client) -> None:
    made = await anyone.post("users", NEW)
    assert made.status_code == 201
    assert made.json()["username"] == "grace"
    assert (await anyone.post("auth/token", {"username": "grace", "password": PASSWORD})).status_code == 200


async def test_signing_up_may_be_closed(anyone: Client, settings: Any) -> None:
    settings.CHAT_REGISTRATION_OPEN = False
    problem(await anyone.post("users", NEW), 403, "registration_closed")


async def test_of_two_who_take_a_name_at_once_one_is_told_that_it_is_taken(
    ada: Client, anyone: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = User.full_clean

    def overtaken(user: User, **given: Any) -> None:
        check(user, **given)
        monkeypatch.undo()
        sign_up(user.username)

    monkeypatch.setattr(User, "full_clean", overtaken)
    refused = problem(await anyone.post("users", NEW), 400, "bad_frame", "/username")
    assert refused["detail"] == "This username is taken."


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"username": "ADA"}, "/username"),  # taken
        ({"username": "a"}, "/username"),
        ({"username": "a" * 33}, "/username"),
        ({"username": "gr ace"}, "/username"),
        ({"username": "grâce"}, "/username"),
        ({"username": 7}, "/username"),
        ({"username": None}, "/username"),
        ({"password": "short"}, "/password"),
        ({"password": "password"}, "/password"),
        ({"password": "with\0nul and more"}, "/password"),
        ({"display_name": "x" * 65}, "/display_name"),
        ({"display_name": ["Grace"]}, "/display_name"),
    ],
)
async def test_signing_up_says_which_field_is_wrong(
    ada: Client, anyone: Client, wrong: dict[str, Any], pointer: str
) -> None:
    problem(await anyone.post("users", NEW | wrong), 400, "bad_frame", pointer)
    assert await User.objects.acount() == 1


# --- people ----------------------------------------------------------------------------------------------------------
async def test_people_are_found_by_the_beginning_of_either_name(ada: Client, bob: Client) -> None:
    await sync_to_async(sign_up)("bobby")
    await sync_to_async(sign_up)("robert")
    await User.objects.filter(username="robert").aupdate(display_name="Bobson")
    names = [person["username"] for person in (await ada.get("users", q="BOB")).json()["results"]]
    assert names == ["bob", "bobby", "robert"]


async def test_people_come_in_pages(ada: Client) -> None:
    for number in range(5):
        await sync_to_async(sign_up)(f"person{number}")
    first = (await ada.get("users", q="person", limit=3)).json()
    rest = (await ada.get("users", q="person", limit=3, cursor=first["next_cursor"])).json()
    names = [person["username"] for person in first["results"] + rest["results"]]
    assert names == [f"person{number}" for number in range(5)]
    assert rest["next_cursor"] is None


async def test_oneself_the_deactivated_and_those_who_blocked_me_are_not_found(
    ada: Client, bob: Client, eve: Client
) -> None:
    await bob.post("users/me/blocks", {"username": "ada"})
    await User.objects.filter(username="eve").aupdate(is_active=False)
    for name in ("ada", "bob", "eve"):
        assert (await ada.get("users", q=name)).json() == {"results": [], "next_cursor": None}


async def test_my_name_is_mine_to_change(ada: Client) -> None:
    changed = await ada.patch("users/me", {"display_name": "  Countess ", "username": "root", "is_staff": True})
    assert changed.json() == {"id": str(ada.person.id), "username": "ada", "display_name": "Countess"}
    for wrong in ("", "   ", "x" * 65, None, 5, "a\0b", "two\nlines", "\u202eturned around"):
        problem(await ada.patch("users/me", {"display_name": wrong}), 400, "bad_frame", "/display_name")


async def test_a_block_closes_the_direct_conversation_both_ways_until_it_ends(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    assert (await ada.post("users/me/blocks", {"username": "bob"})).status_code == 204
    assert [person["username"] for person in (await ada.get("users/me/blocks")).json()["results"]] == ["bob"]
    for client in (ada, bob):
        problem(await say(client, conversation_id, "hello?"), 403, "blocked")
    assert (await ada.delete("users/me/blocks/Bob")).status_code == 204
    assert (await say(bob, conversation_id, "hello!")).status_code == 201


async def test_nobody_blocks_themselves_or_somebody_unknown(ada: Client) -> None:
    problem(await ada.post("users/me/blocks", {"username": "ada"}), 403, "forbidden")
    problem(await ada.post("users/me/blocks", {"username": "nobody"}), 404, "not_found")
    problem(await ada.delete("users/me/blocks/nobody"), 404, "not_found")


async def test_who_is_blocked_cannot_start_a_conversation(ada: Client, bob: Client) -> None:
    await ada.post("users/me/blocks", {"username": "bob"})
    problem(await bob.post("conversations", {"kind": "direct", "members": ["ada"]}), 403, "blocked")


async def test_presence_is_offline_for_who_is_nowhere_and_names_nodes_only_to_staff(ada: Client, bob: Client) -> None:
    asked = {"user_ids": f"{bob.person.id},{uuid4()}"}
    (seen,) = (await ada.get("presence", **asked)).json()["results"]
    assert seen == {"user_id": str(bob.person.id), "status": "offline", "last_seen_at": None}
    await User.objects.filter(username="ada").aupdate(is_staff=True)
    (seen,) = (await ada.get("presence", **asked)).json()["results"]
    assert seen["nodes"] == []


# --- conversations ---------------------------------------------------------------------------------------------------
async def test_two_people_have_one_direct_conversation_whoever_begins(ada: Client, bob: Client) -> None:
    first = await ada.post("conversations", {"kind": "direct", "members": ["bob"]})
    again = await bob.post("conversations", {"kind": "direct", "members": ["ADA"]})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert {member["username"] for member in first.json()["members"]} == {"ada", "bob"}
    assert first.json()["title"] == ""


async def test_a_direct_conversation_needs_one_other_person(ada: Client, bob: Client) -> None:
    problem(await ada.post("conversations", {"kind": "direct", "members": ["ada"]}), 403, "forbidden")
    problem(await ada.post("conversations", {"kind": "direct", "members": ["nobody"]}), 404, "not_found")
    both = {"kind": "direct", "members": ["bob", "ada"]}
    problem(await ada.post("conversations", both), 400, "bad_frame", "/members")


async def test_a_group_begins_with_its_owner_members_and_a_system_message(ada: Client, bob: Client) -> None:
    made = await ada.post("conversations", {"kind": "group", "title": " The  Club ", "members": ["bob", "bob", "ada"]})
    out = made.json()
    assert made.status_code == 201
    assert out["title"] == "The Club"
    assert {member["username"]: member["role"] for member in out["members"]} == {"ada": "owner", "bob": "member"}
    assert (out["last_seq"], out["last_message"]["kind"]) == (1, "system")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "group", "title": "Club", "members": ["bob", "nobody"]}, "/members/1"),
        ({"kind": "group", "title": "Club", "members": ["bob", 5]}, "/members/1"),
        ({"kind": "group", "title": "Club", "members": ["ada"]}, "/members"),
        ({"kind": "group", "title": "Club", "members": []}, "/members"),
        ({"kind": "group", "title": "Club", "members": "bob"}, "/members"),
        ({"kind": "group", "title": "Club", "members": ["bob"] * 101}, "/members"),
        ({"kind": "group", "title": "Club"}, "/members"),
        ({"kind": "group", "members": ["bob"]}, "/title"),
        ({"kind": "group", "title": "x" * 81, "members": ["bob"]}, "/title"),
        ({"kind": "channel", "members": ["bob"]}, "/kind"),
        ({"members": ["bob"]}, "/kind"),
        ([], ""),
        ("group", ""),
        (None, "/kind"),
    ],
)
async def test_a_conversation_that_cannot_be_made_says_why(ada: Client, bob: Client, body: Any, pointer: str) -> None:
    problem(await ada.post("conversations", body), 400, "bad_frame", pointer)
    assert (await ada.get("conversations")).json()["results"] == []


async def test_conversations_come_most_recent_first_with_what_is_unread(ada: Client, bob: Client) -> None:
    quiet = await group(ada, bob, title="Quiet")
    busy = await direct(ada, bob)
    await say(ada, busy, "one")
    await say(ada, busy, "two")
    first, second = (await bob.get("conversations")).json()["results"]
    assert (first["id"], second["id"]) == (busy, quiet)
    assert first["last_message"]["content"] == "two"
    assert first["last_message"]["sender"]["username"] == "ada"
    assert (first["last_seq"], first["last_read_seq"], first["unread_count"]) == (2, 0, 2)
    mine = (await ada.get(f"conversations/{busy}")).json()
    assert mine["unread_count"] == 0


async def test_conversations_come_in_pages_that_miss_and_repeat_nothing(ada: Client, bob: Client) -> None:
    made = [await group(ada, bob, title=f"Group {number}") for number in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (await ada.get("conversations", limit=2, **({"cursor": cursor} if cursor else {}))).json()
        seen += [conversation["id"] for conversation in page["results"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


async def test_a_stranger_cannot_tell_a_conversation_from_none(ada: Client, bob: Client, eve: Client) -> None:
    real, none = await group(ada, bob), str(uuid4())
    for conversation_id in (real, none):
        answers = [
            await eve.get(f"conversations/{conversation_id}"),
            await eve.patch(f"conversations/{conversation_id}", {"title": "Mine"}),
            await eve.post(f"conversations/{conversation_id}/members", {"username": "eve"}),
            await eve.patch(f"conversations/{conversation_id}/members/ada", {"role": "member"}),
            await eve.delete(f"conversations/{conversation_id}/members/ada"),
            await eve.get(f"conversations/{conversation_id}/messages"),
            await say(eve, conversation_id, "let me in"),
            await eve.put(f"conversations/{conversation_id}/read", {"seq": 1}),
        ]
        assert [problem(each, 404, "not_found")["detail"] for each in answers] == ["There is no such conversation."] * 8


# --- members ---------------------------------------------------------------------------------------------------------
async def test_the_owner_and_admins_rename_a_group_and_members_do_not(ada: Client, bob: Client) -> None:
    conversation_id = await group(ada, bob)
    problem(await bob.patch(f"conversations/{conversation_id}", {"title": "Bob's"}), 403, "forbidden")
    await ada.patch(f"conversations/{conversation_id}/members/bob", {"role": "admin"})
    renamed = await bob.patch(f"conversations/{conversation_id}", {"title": "Bob's"})
    assert (renamed.status_code, renamed.json()["title"]) == (200, "Bob's")
    problem(await ada.patch(f"conversations/{conversation_id}", {"title": "bell\x07"}), 400, "bad_frame", "/title")
    problem(await ada.patch(f"conversations/{conversation_id}", {}), 400, "bad_frame", "/title")


async def test_a_new_member_sees_what_is_said_from_then_on(ada: Client, bob: Client, eve: Client) -> None:
    conversation_id = await group(ada, bob)
    await say(ada, conversation_id, "before")
    added = await ada.post(f"conversations/{conversation_id}/members", {"username": "eve"})
    assert added.status_code == 201
    await say(ada, conversation_id, "after")
    assert await contents(eve, conversation_id) == ["Ada added Eve", "after"]
    assert await contents(eve, conversation_id, after_seq=0) == ["Ada added Eve", "after"]


async def test_only_the_owner_adds_an_admin_and_a_refusal_adds_nobody(ada: Client, bob: Client, eve: Client) -> None:
    conversation_id = await group(ada, bob)
    await ada.patch(f"conversations/{conversation_id}/members/bob", {"role": "admin"})
    new_admin = {"username": "eve", "role": "admin"}
    problem(await bob.post(f"conversations/{conversation_id}/members", new_admin), 403, "forbidden")
    problem(await eve.get(f"conversations/{conversation_id}"), 404, "not_found")
    added = await ada.post(f"conversations/{conversation_id}/members", new_admin)
    assert {member["username"]: member["role"] for member in added.json()["members"]}["eve"] == "admin"


async def test_members_neither_add_nor_remove_but_leave(ada: Client, bob: Client, eve: Client) -> None:
    conversation_id = await group(ada, bob, eve)
    members = f"conversations/{conversation_id}/members"
    problem(await bob.delete(f"{members}/eve"), 403, "forbidden")
    problem(await bob.post(members, {"username": "ada"}), 403, "forbidden")
    problem(await bob.patch(f"{members}/eve", {"role": "admin"}), 403, "forbidden")
    assert (await bob.delete(f"{members}/bob")).status_code == 204
    problem(await bob.get(f"conversations/{conversation_id}"), 403, "not_a_member")
    problem(await bob.get(f"conversations/{conversation_id}/messages"), 403, "not_a_member")
    problem(await say(bob, conversation_id, "still here?"), 403, "not_a_member")


async def test_an_owner_hands_over_or_leaves_the_group_to_the_next(ada: Client, bob: Client, eve: Client) -> None:
    conversation_id = await group(ada, bob, eve)
    members = f"conversations/{conversation_id}/members"

    def roles(response: Any) -> dict[str, str]:
        return {member["username"]: member["role"] for member in response.json()["members"]}

    handed = await ada.patch(f"{members}/bob", {"role": "owner"})
    assert roles(handed) == {"ada": "admin", "bob": "owner", "eve": "member"}
    assert (await bob.delete(f"{members}/bob")).status_code == 204
    assert roles(await eve.get(f"conversations/{conversation_id}")) == {"ada": "owner", "eve": "member"}


async def test_a_member_who_does_not_exist_is_not_found(ada: Client, bob: Client) -> None:
    conversation_id = await group(ada, bob)
    members = f"conversations/{conversation_id}/members"
    problem(await ada.post(members, {"username": "nobody"}), 404, "not_found")
    problem(await ada.delete(f"{members}/nobody"), 404, "not_found")
    problem(await ada.patch(f"{members}/nobody", {"role": "admin"}), 404, "not_found")
    problem(await ada.patch(f"{members}/bob", {"role": "king"}), 400, "bad_frame", "/role")
    problem(await ada.delete(f"{members}/%00"), 404, "not_found")


async def test_a_direct_conversation_has_no_title_and_nobody_joins_or_leaves_it(
    ada: Client, bob: Client, eve: Client
) -> None:
    conversation_id = await direct(ada, bob)
    problem(await ada.patch(f"conversations/{conversation_id}", {"title": "Us"}), 403, "forbidden")
    problem(await ada.post(f"conversations/{conversation_id}/members", {"username": "eve"}), 403, "forbidden")
    problem(await ada.delete(f"conversations/{conversation_id}/members/ada"), 403, "forbidden")


# --- messages --------------------------------------------------------------------------------------------------------
async def test_a_message_gets_the_next_number_and_both_read_it(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    key = uuid4()
    said = await say(ada, conversation_id, "  hello  ", key)
    out = said.json()
    assert said.status_code == 201
    assert out["content"] == "hello"
    assert (out["seq"], out["kind"], out["client_msg_id"]) == (1, "text", str(key))
    assert out["sender"] == {"id": str(ada.person.id), "username": "ada", "display_name": "Ada"}
    assert out["sent_at"].endswith("Z") and len(out["sent_at"]) == 24
    for client in (ada, bob):
        page = (await client.get(f"conversations/{conversation_id}/messages")).json()
        assert page == {"results": [out], "has_more": False}


async def test_what_rest_says_reaches_the_sockets_of_both(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    sockets = []
    for client in (ada, bob):
        headers = [(b"authorization", client.headers["Authorization"].encode())]
        sockets.append(WebsocketCommunicator(application, "/ws/v1/", headers=headers))
        assert (await sockets[-1].connect())[0]
        assert (await sockets[-1].receive_json_from())["type"] == "hello"
    said = (await say(ada, conversation_id, "hello")).json()
    for socket in sockets:
        assert await socket.receive_json_from() == {"type": "message.created", "message": said}
        await socket.disconnect()


async def test_a_repeat_gets_the_first_result_whatever_it_says(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    key = uuid4()
    first = await say(ada, conversation_id, "first", key)
    again = await say(ada, conversation_id, "changed my mind", key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert await contents(bob, conversation_id) == ["first"]


@pytest.mark.parametrize("quoted", ["{}", '"{}"'])
async def test_the_idempotency_key_may_carry_the_client_msg_id(ada: Client, bob: Client, quoted: str) -> None:
    path = f"conversations/{await direct(ada, bob)}/messages"
    key = str(uuid4())
    said = await ada.post(path, {"content": "hello"}, **{"Idempotency-Key": quoted.format(key)})
    assert (said.status_code, said.json()["client_msg_id"]) == (201, key)
    problem(
        await ada.post(path, {"content": "x"}, **{"Idempotency-Key": "rubbish"}), 400, "bad_frame", "/client_msg_id"
    )


async def test_pages_go_both_ways_from_a_number(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    for number in range(1, 8):
        await say(ada, conversation_id, str(number))
    path = f"conversations/{conversation_id}/messages"

    async def page(**query: int) -> tuple[str, bool]:
        body = (await bob.get(path, **query)).json()
        return "".join(message["content"] for message in body["results"]), body["has_more"]

    assert await page() == ("1234567", False)
    assert await page(limit=3) == ("567", True)
    assert await page(limit=3, before_seq=5) == ("234", True)
    assert await page(limit=3, before_seq=4) == ("123", False)
    assert await page(limit=3, after_seq=2) == ("345", True)
    assert await page(limit=3, after_seq=4) == ("567", False)
    assert await page(after_seq=7) == ("", False)
    assert await page(after_seq=2**63 - 1) == ("", False)
    assert await page(before_seq=2**63 - 1, limit=1) == ("7", True)
    assert await page(before_seq=1) == ("", False)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"limit": "0"}, "/limit"),
        ({"limit": "-1"}, "/limit"),
        ({"limit": "101"}, "/limit"),
        ({"limit": "1e9"}, "/limit"),
        ({"limit": "1000000000"}, "/limit"),
        ({"limit": "NaN"}, "/limit"),
        ({"limit": ""}, "/limit"),
        ({"limit": "9" * 5000}, "/limit"),
        ({"limit": ["1", "2"]}, "/limit"),
        ({"before_seq": "0"}, "/before_seq"),
        ({"before_seq": "-5"}, "/before_seq"),
        ({"before_seq": str(2**63)}, "/before_seq"),
        ({"before_seq": "x"}, "/before_seq"),
        ({"after_seq": "-1"}, "/after_seq"),
        ({"after_seq": str(2**63)}, "/after_seq"),
        ({"after_seq": "1\0"}, "/after_seq"),
        ({"before_seq": "5", "after_seq": "5"}, "/after_seq"),
        ({"before": "5"}, "/before"),
        ({"format": "xml"}, "/format"),
        ({"a/b~c": "5"}, "/a~1b~0c"),
    ],
)
async def test_a_page_that_cannot_be_asked_for_says_why(
    ada: Client, bob: Client, query: dict[str, str], pointer: str
) -> None:
    problem(await ada.get(f"conversations/{await direct(ada, bob)}/messages", **query), 400, "bad_frame", pointer)


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"content": ""}, "/content"),
        ({"content": " \n\t "}, "/content"),
        ({"content": "x" * (MAX_CONTENT_CHARS + 1)}, "/content"),
        ({"content": "a\0b"}, "/content"),
        ({"content": None}, "/content"),
        ({"content": 5}, "/content"),
        ({"content": ["x"]}, "/content"),
        ({"client_msg_id": None}, "/client_msg_id"),
        ({"client_msg_id": 5}, "/client_msg_id"),
        ({"client_msg_id": True}, "/client_msg_id"),
        ({"client_msg_id": "5"}, "/client_msg_id"),
        ({"client_msg_id": {"$ne": 1}}, "/client_msg_id"),
    ],
)
async def test_a_message_that_cannot_be_stored_says_why(
    ada: Client, bob: Client, wrong: dict[str, Any], pointer: str
) -> None:
    conversation_id = await direct(ada, bob)
    body = {"content": "hello", "client_msg_id": str(uuid4())} | wrong
    problem(await ada.post(f"conversations/{conversation_id}/messages", body), 400, "bad_frame", pointer)
    assert await contents(ada, conversation_id) == []


async def test_a_message_without_a_client_msg_id_is_refused(ada: Client, bob: Client) -> None:
    path = f"conversations/{await direct(ada, bob)}/messages"
    problem(await ada.post(path, {"content": "hello"}), 400, "bad_frame", "/client_msg_id")


async def test_the_longest_message_fits_even_when_every_character_is_escaped(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    escaped = rb"\ud83d\ude00" * MAX_CONTENT_CHARS
    body = b'{"content": "%s", "client_msg_id": "%s"}' % (escaped, str(uuid4()).encode())
    said = await ada.post(f"conversations/{conversation_id}/messages", body)
    assert (said.status_code, said.json()["content"]) == (201, "😀" * MAX_CONTENT_CHARS)


async def test_what_a_client_says_about_sender_and_number_is_ignored(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    forged = {"content": "hi", "client_msg_id": str(uuid4()), "sender": "bob", "seq": 99, "kind": "system"}
    out = (await ada.post(f"conversations/{conversation_id}/messages", forged)).json()
    assert (out["sender"]["username"], out["seq"], out["kind"]) == ("ada", 1, "text")


async def test_sending_too_fast_is_refused_with_when_to_go_on(ada: Client, bob: Client, settings: Any) -> None:
    conversation_id = await direct(ada, bob)
    settings.CHAT_SENDS_PER_10S = 2
    answers = [await say(ada, conversation_id, str(number)) for number in range(3)]
    assert [each.status_code for each in answers] == [201, 201, 429]
    problem(answers[-1], 429, "rate_limited")
    assert 1 <= int(answers[-1]["Retry-After"]) <= 10


async def test_a_history_that_is_away_is_said_so_to_writers_and_readers(
    ada: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*given: Any) -> None:
        raise Unavailable("The history does not answer.", retry_after_ms=1_500)

    conversation_id = await direct(ada, bob)
    for method in ("append", "before", "after", "latest"):
        monkeypatch.setattr(await log(), method, away)
    for refused in (
        await say(ada, conversation_id, "hello?"),
        await ada.get(f"conversations/{conversation_id}/messages"),
        await ada.get("conversations"),
        await ada.get(f"conversations/{conversation_id}"),
    ):
        problem(refused, 503, "unavailable")
        assert refused["Retry-After"] == "2"


@pytest.mark.parametrize("away", [RedisError("no route"), OperationalError("no database")])
async def test_a_store_that_is_away_is_no_bug_of_ours(
    ada: Client, monkeypatch: pytest.MonkeyPatch, away: Exception
) -> None:
    def ask(*given: Any, **query: Any) -> None:
        raise away

    monkeypatch.setattr(User.objects, "filter", ask)
    problem(await ada.get("users", q="bob"), 503, "unavailable")


# --- reading ---------------------------------------------------------------------------------------------------------
async def test_what_is_read_moves_forward_and_never_back_nor_past_the_end(ada: Client, bob: Client) -> None:
    conversation_id = await direct(ada, bob)
    for number in range(3):
        await say(ada, conversation_id, str(number))

    async def read(seq: int) -> tuple[int, int]:
        assert (await bob.put(f"conversations/{conversation_id}/read", {"seq": seq})).status_code == 204
        out = (await bob.get(f"conversations/{conversation_id}")).json()
        return out["last_read_seq"], out["unread_count"]

    assert await read(2) == (2, 1)
    assert await read(1) == (2, 1)
    assert await read(2**63 - 1) == (3, 0)


@pytest.mark.parametrize("seq", [-1, 2**63, "1", 1.5, None, True, [1]])
async def test_a_number_that_is_none_cannot_be_read_up_to(ada: Client, bob: Client, seq: Any) -> None:
    path = f"conversations/{await direct(ada, bob)}/read"
    problem(await ada.put(path, {"seq": seq}), 400, "bad_frame", "/seq")


# --- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b'{"kind": NaN}',
        b'{"kind": Infinity}',
        b'{"kind": "\\ud800"}',
        b'{"kind": "\xff"}',
        b'{"kind": "\xed\xa0\x80"}',
        b"\xef\xbb\xbf{",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
async def test_a_body_that_is_not_json_is_refused(ada: Client, body: bytes) -> None:
    problem(await ada.post("conversations", body), 400, "bad_frame", "")


async def test_a_huge_body_is_refused(ada: Client) -> None:
    problem(await ada.post("conversations", b'"' + b"x" * 300_000 + b'"'), 413, "too_large")


async def test_a_body_of_another_kind_is_refused(ada: Client) -> None:
    http = AsyncClient()
    refused = await http.post("/api/v1/conversations", {"kind": "direct"}, headers=ada.headers)
    problem(refused, 415, "unsupported_media_type")


@pytest.mark.parametrize("number", [b"1" * 5_000, b"1e400", b"-1e400", b"1" + b"0" * 400, b"0.1"])
async def test_a_number_beyond_all_bounds_is_refused(ada: Client, bob: Client, number: bytes) -> None:
    path = f"conversations/{await direct(ada, bob)}/read"
    problem(await ada.put(path, b'{"seq": %s}' % number), 400, "bad_frame")


async def test_whatever_a_client_says_it_accepts_it_gets_json(ada: Client) -> None:
    ada.headers |= {"Accept": "text/html"}
    assert (await ada.get("users/me"))["Content-Type"] == "application/json"
    problem(await ada.get("users/me", page=2), 400, "bad_frame", "/page")


@pytest.mark.parametrize(("method", "path"), [("PUT", "users/me"), ("GET", "auth/token"), ("OPTIONS", "users")])
async def test_a_wrong_method_is_refused_with_those_that_are_right(ada: Client, method: str, path: str) -> None:
    refused = await ada.send(method, path)
    problem(refused, 405, "method_not_allowed")
    assert refused["Allow"]


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/api/v1/", "/api/", "/api/v2/users", "/api/v1/users/", "/api/v1/conversations/5"]
)
async def test_an_address_with_nothing_behind_it_says_so(chat: None, path: str) -> None:
    problem(await AsyncClient().get(path), 404, "not_found")


@pytest.mark.parametrize("cursor", ["x", "a|b", "%%%", "é", "fHx8", "MjAyNi0wMS0wMXxub3BlCg==", "A" * 301, "\0"])
async def test_a_cursor_that_is_not_ours_is_refused(ada: Client, cursor: str) -> None:
    problem(await ada.get("conversations", cursor=cursor), 400, "bad_frame", "/cursor")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({}, "/q"),
        ({"q": ""}, "/q"),
        ({"q": "x" * 65}, "/q"),
        ({"q": "a\0b"}, "/q"),
        ({"q": "bob", "limit": "1e9"}, "/limit"),
        ({"q": "bob", "is_staff": "true"}, "/is_staff"),
    ],
)
async def test_a_search_that_cannot_be_made_says_why(ada: Client, query: dict[str, str], pointer: str) -> None:
    problem(await ada.get("users", **query), 400, "bad_frame", pointer)


@pytest.mark.parametrize(
    ("user_ids", "pointer"),
    [
        ("", "/user_ids"),
        ("x", "/user_ids/0"),
        (f"{uuid4()},5", "/user_ids/1"),
        (f"{uuid4()},", "/user_ids/1"),
        (",".join(str(uuid4()) for _ in range(501)), "/user_ids"),
    ],
)
async def test_presence_of_nobody_real_says_why(ada: Client, user_ids: str, pointer: str) -> None:
    problem(await ada.get("presence", user_ids=user_ids), 400, "bad_frame", pointer)


async def test_a_bug_is_a_problem_with_the_id_under_which_it_is_logged(
    ada: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(accounts, "issue_token", broken)
    http = AsyncClient(raise_request_exception=False)
    response = await http.post(
        "/api/v1/auth/token", {"username": "ada", "password": PASSWORD}, content_type="application/json"
    )
    body = problem(response, 500, "internal")
    bug = body["detail"].partition("(id ")[2].rstrip(").")
    (record,) = [record for record in caplog.records if bug in record.getMessage()]
    assert record.exc_info
    assert "secret" not in response.content.decode()

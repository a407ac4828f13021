import re

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from apps.accounts import services
from apps.accounts.models import User
from apps.conversations.models import Conversation, Membership
from apps.presence.registry import NodeInfo
from apps.push.models import Device
from chatproject import admin as site
from tests.accounts.conftest import NEW_PASSWORD, PASSWORD, logged_in, session_key

pytestmark = pytest.mark.django_db
USERS = "/admin/accounts/user/"


@pytest.fixture
def admin(admin_user: User) -> Client:
    return logged_in(admin_user)


@pytest.fixture
def conversation(ada: User, bob: User) -> Conversation:
    conversation = Conversation.objects.create(kind="group", title="Engines")
    for user, role in ((ada, "owner"), (bob, "member")):
        Membership.objects.create(conversation=conversation, user=user, role=role)
    return conversation


def act(admin: Client, action: str, *users: User, confirmed: bool = True) -> str:
    data = {"action": action, "_selected_action": [user.pk for user in users]} | (
        {"confirmed": "yes"} if confirmed else {}
    )
    answer = admin.post(USERS, data, follow=True)
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_operators_log_in_by_the_same_door_as_everyone() -> None:
    answer = Client().get("/admin/", follow=True)
    assert answer.redirect_chain[-1][0].startswith("/accounts/login/?next=")


def test_the_door_behind_the_door_takes_no_passwords(admin_user: User) -> None:
    browser = Client()
    browser.post("/admin/login/", {"username": "root", "password": PASSWORD})
    assert browser.get("/admin/").status_code == 302


def test_others_are_not_let_in(ada: User) -> None:
    assert logged_in(ada).get("/admin/", follow=True).status_code == 403


def test_every_page_opens_and_works_under_the_same_content_security_policy(
    admin: Client, ada: User, conversation: Conversation
) -> None:
    services.issue_token(ada)
    Device.objects.create(user=ada, platform="fcm", token="x" * 40)
    pages = ["/admin/", USERS, f"{USERS}add/", f"{USERS}{ada.pk}/change/", f"{USERS}{ada.pk}/password/"]
    for model in (Conversation, Membership, Device):
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        pages += [reverse(f"{name}_changelist"), reverse(f"{name}_change", args=[model.objects.first().pk])]
    for page in pages:
        answer = admin.get(page)
        text = answer.content.decode()
        assert answer.status_code == 200, page
        assert "style-src 'self'" in answer["Content-Security-Policy"].split("; ")
        data_blocks_aside = re.sub(r'<script[^>]*type="application/json"', "", re.sub(r"\s+", " ", text))
        assert not re.search(r"<script(?![^>]*\b(src=|data-))|<style|\sstyle=|\son\w+=", data_blocks_aside), page


def test_what_opens_an_account_is_not_shown(admin: Client, ada: User) -> None:
    browser, token = logged_in(ada), services.issue_token(ada)
    Device.objects.create(user=ada, platform="fcm", token="secret-of-the-device" * 3)
    seen = "".join(
        admin.get(page).content.decode()
        for page in ("/admin/", USERS, f"{USERS}{ada.pk}/change/", "/admin/push/device/")
    )
    ada.refresh_from_db()
    secrets = [ada.password, ada.password.split("$")[-1], session_key(browser), token, ada.api_tokens.get().digest]
    assert not [secret for secret in [*secrets, "secret-of-the-device"] if secret in seen]
    assert admin.get("/admin/usersessions/usersession/").status_code == 404


def test_conversations_are_counted_and_can_only_be_looked_at(admin: Client, conversation: Conversation) -> None:
    page = admin.get("/admin/conversations/conversation/").content.decode()
    assert "Engines" in page
    assert '<td class="field-members">2</td>' in page
    assert admin.post(f"/admin/conversations/conversation/{conversation.pk}/change/", {"title": "x"}).status_code == 403
    assert (
        admin.post(f"/admin/conversations/conversation/{conversation.pk}/delete/", {"post": "yes"}).status_code == 403
    )
    assert admin.get("/admin/conversations/conversation/add/").status_code == 403


def test_deactivating_asks_first_and_then_ends_everything(admin: Client, ada: User) -> None:
    browser = logged_in(ada)
    asked = act(admin, "deactivate", ada, confirmed=False)
    assert "Deactivate these people?" in asked
    assert "1 session," in asked
    assert browser.get("/settings/").status_code == 200
    assert "Deactivated: ada." in act(admin, "deactivate", ada)
    assert browser.get("/settings/").status_code == 302
    assert "Reactivated: ada." in act(admin, "reactivate", ada)
    assert logged_in(ada).get("/settings/").status_code == 200


def test_nobody_locks_themselves_out(admin: Client, admin_user: User) -> None:
    act(admin, "deactivate", admin_user)
    admin_user.refresh_from_db()
    assert admin_user.is_active


def test_a_username_stays_and_a_name_changes(admin: Client, ada: User) -> None:
    admin.post(f"{USERS}{ada.pk}/change/", {"username": "eve", "display_name": "Ada L"} | _no_inlines())
    ada.refresh_from_db()
    assert (ada.username, ada.display_name) == ("ada", "Ada L")


def _no_inlines() -> dict[str, str]:
    """Django's admin wants to be told that there were none."""
    counts = ("TOTAL_FORMS", "INITIAL_FORMS")
    return {f"{prefix}-{count}": "0" for prefix in ("usersession_set", "api_tokens") for count in counts}


def test_all_sessions_of_a_person_are_ended(admin: Client, ada: User) -> None:
    browser = logged_in(ada)
    services.issue_token(ada)
    act(admin, "end_all_sessions", ada)
    assert browser.get("/settings/").status_code == 302
    assert not ada.api_tokens.exists()


def test_nobody_is_deleted(admin: Client, ada: User) -> None:
    assert admin.post(f"{USERS}{ada.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in admin.get(USERS).content.decode()


def test_a_password_set_by_an_operator_ends_what_the_old_one_opened(admin: Client, ada: User) -> None:
    browser = logged_in(ada)
    services.issue_token(ada)
    data = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true", "set-password": ""}
    assert admin.post(f"{USERS}{ada.pk}/password/", data).status_code == 302
    assert browser.get("/settings/").status_code == 302
    assert not ada.api_tokens.exists()
    assert logged_in(ada, NEW_PASSWORD)


def test_an_operator_makes_a_person_who_can_log_in(admin: Client) -> None:
    data = {"username": "Carol", "display_name": "Carol", "usable_password": "true"}
    answer = admin.post(f"{USERS}add/", data | {"password1": PASSWORD, "password2": PASSWORD})
    assert answer.status_code == 302, answer.content.decode()
    assert logged_in(User.objects.get(username="carol"))


def test_staff_cannot_become_superusers_by_changing_one(bob: User, admin_user: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_staff=True)
    bob.user_permissions.set(_permissions("view_user", "change_user"))
    staff = logged_in(bob)
    answer = staff.post(f"{USERS}{admin_user.pk}/password/", {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    assert answer.status_code == 403
    staff.post(f"{USERS}{bob.pk}/change/", {"username": "bob", "display_name": "Bob", "is_superuser": "on"})
    act(staff, "deactivate", admin_user)
    bob.refresh_from_db()
    admin_user.refresh_from_db()
    assert not bob.is_superuser
    assert admin_user.is_active


def _permissions(*codenames: str) -> list[Permission]:
    return list(Permission.objects.filter(codename__in=codenames))


def test_the_nodes_that_live_are_shown(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def two_nodes() -> list[NodeInfo]:
        return [NodeInfo(f"node-{n}", "b00t", "host", n, "2026-11-24T12:00:00Z", 20 + n, 10) for n in (1, 2)]

    monkeypatch.setattr(site, "live_nodes", two_nodes)
    page = admin.get("/admin/nodes/").content.decode()
    assert "node-1" in page
    assert "2 nodes, 43 connections" in page


def test_the_page_of_nodes_says_so_when_redis_is_away(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> list[NodeInfo]:
        raise ConnectionRefusedError

    monkeypatch.setattr(site, "live_nodes", away)
    assert "Redis does not answer" in admin.get("/admin/nodes/").content.decode()


def test_the_page_of_nodes_is_for_operators(ada: User) -> None:
    assert logged_in(ada).get("/admin/nodes/", follow=True).status_code == 403

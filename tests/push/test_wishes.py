"""How people say how they want to be told: over REST, and on the pages without JavaScript."""

import re
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from apps.conversations import services
from apps.conversations.models import Membership
from apps.push.models import NotificationSettings
from tests.conversations.test_views import Visitor
from tests.embedded import Client

SETTINGS = "users/me/notification-settings"
AT_FIRST = {"content": "full", "content_allowed": "full", "time_zone": "UTC", "quiet_from": None, "quiet_until": None}
NIGHT = {"quiet_from": "22:00", "quiet_until": "07:30", "time_zone": "Europe/Berlin"}


# --- over REST -------------------------------------------------------------------------------------------------------
async def test_everything_is_said_at_any_time_until_a_person_wants_otherwise(ada: Client) -> None:
    assert (await ada.get(SETTINGS)).json() == AT_FIRST
    assert (await ada.patch(SETTINGS, NIGHT)).json() == AT_FIRST | NIGHT
    assert (await ada.patch(SETTINGS, {"content": "sender"})).json() == AT_FIRST | NIGHT | {"content": "sender"}
    assert (await ada.get(SETTINGS)).json() == AT_FIRST | NIGHT | {"content": "sender"}
    cleared = await ada.patch(SETTINGS, {"quiet_from": None, "quiet_until": None})
    assert cleared.json()["quiet_until"] is None


async def test_a_person_sees_what_the_installation_allows(ada: Client, settings: Any) -> None:
    settings.PUSH_CONTENT = "none"
    assert (await ada.get(SETTINGS)).json()["content_allowed"] == "none"


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"content": "everything"}, "/content"),
        ({"content": None}, "/content"),
        ({"time_zone": "Mars/Olympus"}, "/time_zone"),
        ({"time_zone": "../../etc/passwd"}, "/time_zone"),
        ({"time_zone": 1}, "/time_zone"),
        ({"quiet_from": "22:00"}, "/quiet_until"),
        ({"quiet_until": "22:00"}, "/quiet_from"),
        ({"quiet_from": "22:00", "quiet_until": "22:00"}, "/quiet_until"),
        ({"quiet_from": "25:00", "quiet_until": "22:00"}, "/quiet_from"),
        ({"quiet_from": 22, "quiet_until": "22:00"}, "/quiet_from"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_not_kept(ada: Client, wrong: dict[str, Any], pointer: str) -> None:
    refused = await ada.patch(SETTINGS, wrong)
    assert refused.status_code == 400
    assert refused["Content-Type"] == "application/problem+json"
    assert refused.json()["errors"][0]["pointer"] == pointer
    assert not await sync_to_async(NotificationSettings.objects.exists)()


async def test_half_of_the_quiet_hours_cannot_be_taken_back(ada: Client) -> None:
    await ada.patch(SETTINGS, NIGHT)
    refused = await ada.patch(SETTINGS, {"quiet_from": None})
    assert refused.json()["errors"][0]["pointer"] == "/quiet_from"
    assert (await ada.get(SETTINGS)).json() == AT_FIRST | NIGHT


async def test_a_conversation_is_muted_for_its_member_alone(ada: Client, bob: Client, eve: Client) -> None:
    path = f"conversations/{await services.create_group(ada.person, 'Tea', ['bob'])}/notification-settings"
    muted = {"muted_until": "2030-01-01T00:00:00.000Z", "mentions_only": False}

    assert (await ada.patch(path, {"muted_until": "2030-01-01T02:00:00+02:00"})).json() == muted
    assert (await ada.get(path)).json() == muted
    assert (await ada.patch(path, {"mentions_only": True})).json() == muted | {"mentions_only": True}
    assert (await bob.get(path)).json() == {"muted_until": None, "mentions_only": False}
    assert (await ada.patch(path, {"muted_until": None})).json()["muted_until"] is None
    assert (await eve.get(path)).status_code == (await eve.patch(path, {})).status_code == 404


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"muted_until": "tomorrow"}, "/muted_until"),
        ({"muted_until": 5}, "/muted_until"),
        ({"muted_until": "9999-12-31T23:59:59-12:00"}, "/muted_until"),
        ({"mentions_only": "yes"}, "/mentions_only"),
        ({"mentions_only": None}, "/mentions_only"),
    ],
)
async def test_a_mute_that_makes_no_sense_is_refused(
    ada: Client, bob: Client, wrong: dict[str, Any], pointer: str
) -> None:
    path = f"conversations/{await services.create_group(ada.person, 'Tea', ['bob'])}/notification-settings"
    refused = await ada.patch(path, wrong)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["pointer"] == pointer


async def test_who_has_left_has_nothing_to_mute(ada: Client, bob: Client) -> None:
    conversation_id = await services.create_group(ada.person, "Tea", ["bob"])
    await services.remove_member(bob.person, conversation_id, "bob")
    refused = await bob.patch(f"conversations/{conversation_id}/notification-settings", {"mentions_only": True})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_a_member")


# --- on the pages ----------------------------------------------------------------------------------------------------
def fields(page: Visitor) -> dict[str, str]:
    """What the form shows as it was kept."""
    section = page.html[page.html.index('action="/settings/notifications/"') :].split("</form>")[0]
    inputs = re.findall(r'name="(quiet_from|quiet_until|time_zone)"[^>]*value="([^"]*)"', section)
    (content,) = re.findall(r'<option value="(\w+)" selected', section)
    return {**dict(inputs), "content": content}


async def test_the_settings_page_keeps_what_is_wished(ada: Client) -> None:
    page = await (await Visitor(ada).arrive()).get("/settings/")
    assert fields(page) == {"content": "full", "time_zone": "UTC", "quiet_from": "", "quiet_until": ""}

    await page.post("/settings/notifications/", **NIGHT, content="sender")
    assert "You will be notified as you wish." in page.text
    assert fields(page) == NIGHT | {"content": "sender"}

    await page.post("/settings/notifications/", **NIGHT | {"quiet_until": ""}, content="none")
    assert "Quiet hours have a beginning and an end." in page.text
    assert fields(page) == NIGHT | {"content": "sender"}


@pytest.mark.parametrize(
    "wrong", [{"quiet_from": "late"}, {"time_zone": ""}, {"content": "everything"}, {"content": ""}]
)
async def test_the_settings_page_refuses_what_makes_no_sense(ada: Client, wrong: dict[str, str]) -> None:
    page = await (await Visitor(ada).arrive()).post("/settings/notifications/", **NIGHT | {"content": "full"} | wrong)
    assert page.status == 200
    assert 'class="notice error"' in page.html
    assert not await sync_to_async(NotificationSettings.objects.exists)()


async def muted_until(person: Client) -> datetime | None:
    rows = Membership.objects.filter(user=person.user).values_list("muted_until", flat=True)
    return await sync_to_async(rows.get)()


async def test_a_conversation_is_muted_and_unmuted_on_the_page_of_its_members(ada: Client, bob: Client) -> None:
    conversation_id = await services.create_group(ada.person, "Tea", ["bob"])
    members, change = f"/c/{conversation_id}/members/", f"/c/{conversation_id}/notifications/"
    page = await (await Visitor(ada).arrive()).get(members)
    assert "You are notified of every message" in page.text

    await page.post(change, mute="1 hour")
    assert "You are not notified until" in page.text
    until = await muted_until(ada)
    assert until is not None
    assert 3_500 < (until - timezone.now()).total_seconds() <= 3_600
    assert await muted_until(bob) is None

    await page.post(change, unmute="1")
    assert await muted_until(ada) is None
    await page.post(change, mute="ever")
    assert "You are not notified." in page.text
    await page.post(change, unmute="1")
    await page.post(change, only="mentions")
    assert "You are notified when somebody writes @ada" in page.text
    await page.post(change, only="everything")
    assert "You are notified of every message" in page.text


async def test_nobody_mutes_what_they_are_not_in(ada: Client, bob: Client, eve: Client) -> None:
    conversation_id = await services.create_group(ada.person, "Tea", ["bob"])
    page = await (await Visitor(eve).arrive()).post(f"/c/{conversation_id}/notifications/", mute="ever")
    assert "There is no such conversation." in page.text
    assert (await page.post(f"/c/{uuid4()}/notifications/", mute="ever")).status == 200

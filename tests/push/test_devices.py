"""Devices that notifications go to, as their owners register and remove them over REST."""

from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.test import AsyncClient
from django.utils import timezone

from apps.accounts import services as accounts
from apps.push import services
from apps.push.models import Device
from tests.embedded import Client

PHONE = {"platform": "fcm", "token": "token of a phone", "name": "Phone"}


async def tokens(client: Client) -> list[str]:
    """What the database holds for this person: REST never shows a token."""
    return [device.token async for device in Device.objects.filter(user=client.user).order_by("created_at")]


async def test_a_device_is_registered_once_however_often_its_client_starts(ada: Client) -> None:
    first = await ada.post("users/me/devices", PHONE)
    again = await ada.post("users/me/devices", PHONE | {"name": "Old phone"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["id"] == first.json()["id"]
    listed = (await ada.get("users/me/devices")).json()
    assert listed == {"results": [again.json()], "next_cursor": None}
    assert (again.json()["platform"], again.json()["name"]) == ("fcm", "Old phone")


async def test_a_token_is_never_shown(ada: Client) -> None:
    made = await ada.post("users/me/devices", PHONE)
    listed = await ada.get("users/me/devices")
    assert PHONE["token"] not in made.content.decode() + listed.content.decode()


async def test_a_phone_that_changes_hands_leaves_its_former_owner(ada: Client, bob: Client) -> None:
    await ada.post("users/me/devices", PHONE)
    await bob.post("users/me/devices", PHONE)
    assert (await tokens(ada), await tokens(bob)) == ([], [PHONE["token"]])


async def test_the_same_token_on_two_platforms_is_two_devices(ada: Client) -> None:
    await ada.post("users/me/devices", PHONE)
    await ada.post("users/me/devices", PHONE | {"platform": "apns"})
    assert len(await tokens(ada)) == 2


async def test_nobody_has_more_devices_than_they_can_count(ada: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "MAX_DEVICES", 2)
    for number in range(2):
        await ada.post("users/me/devices", PHONE | {"token": str(number)})
    refused = await ada.post("users/me/devices", PHONE | {"token": "one more"})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["pointer"] == "/token"
    assert (await ada.post("users/me/devices", PHONE | {"token": "1"})).status_code == 201
    assert await tokens(ada) == ["0", "1"]


async def test_a_device_is_removed_by_its_id_or_token(ada: Client) -> None:
    for number in range(4):
        await ada.post("users/me/devices", PHONE | {"token": f"t {number}"})
    (first, *_) = (await ada.get("users/me/devices")).json()["results"]
    assert (await ada.delete(f"users/me/devices/{first['id']}")).status_code == 204
    assert (await ada.delete("users/me/devices?token=t%201")).status_code == 204
    assert (await ada.delete("users/me/devices", {"token": "t 2"})).status_code == 204
    assert (await ada.delete("users/me/devices", {"token": "t 2"})).status_code == 204
    assert await tokens(ada) == ["t 3"]


async def test_nobody_removes_the_device_of_another(ada: Client, bob: Client) -> None:
    made = (await ada.post("users/me/devices", PHONE)).json()
    assert (await bob.delete(f"users/me/devices/{made['id']}")).status_code == 404
    assert (await bob.delete("users/me/devices", {"token": PHONE["token"]})).status_code == 204
    assert (await bob.delete(f"users/me/devices/{uuid4()}")).status_code == 404
    assert await tokens(ada) == [PHONE["token"]]


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"platform": "carrier pigeon"}, "/platform"),
        ({"platform": None}, "/platform"),
        ({"token": ""}, "/token"),
        ({"token": "x" * 4_097}, "/token"),
        ({"token": "a\0b"}, "/token"),
        ({"token": "a\x1bb"}, "/token"),
        ({"token": "a\x85b"}, "/token"),
        ({"token": 5}, "/token"),
        ({"name": "x" * 65}, "/name"),
    ],
)
async def test_a_device_that_cannot_be_registered_says_why(ada: Client, wrong: dict[str, Any], pointer: str) -> None:
    refused = await ada.post("users/me/devices", PHONE | wrong)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["pointer"] == pointer
    assert await tokens(ada) == []


async def test_a_removal_has_to_name_a_device(ada: Client) -> None:
    for refused in (await ada.delete("users/me/devices"), await ada.delete("users/me/devices?token=")):
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["pointer"] == "/token"
    assert (await ada.delete("users/me/devices?tokens=x")).json()["errors"][0]["pointer"] == "/tokens"


# --- the end of a session --------------------------------------------------------------------------------------------
async def test_logging_out_forgets_the_device_of_that_session_alone(ada: Client) -> None:
    other = Client(ada.user, await sync_to_async(accounts.issue_token)(ada.user))
    await ada.post("users/me/devices", PHONE)
    await other.post("users/me/devices", PHONE | {"token": "another"})

    await other.delete("auth/token")

    assert await tokens(ada) == [PHONE["token"]]


async def test_a_browser_that_logs_out_is_forgotten(ada: Client) -> None:
    browser = AsyncClient()
    await sync_to_async(browser.force_login)(ada.user)
    made = await browser.post("/api/v1/users/me/devices", PHONE, content_type="application/json")
    assert made.status_code == 201
    assert await tokens(ada) == [PHONE["token"]]

    await browser.post("/accounts/logout/")

    assert await tokens(ada) == []


async def test_a_session_that_has_ended_by_itself_leaves_no_device(ada: Client) -> None:
    browser = AsyncClient()
    await sync_to_async(browser.force_login)(ada.user)
    await browser.post("/api/v1/users/me/devices", PHONE, content_type="application/json")
    await ada.post("users/me/devices", PHONE | {"token": "another"})
    await sync_to_async(services.remove_devices_of_ended_sessions)()
    assert len(await tokens(ada)) == 2

    await sync_to_async(Session.objects.update)(expire_date=timezone.now())
    await sync_to_async(services.remove_devices_of_ended_sessions)()

    assert await tokens(ada) == ["another"]

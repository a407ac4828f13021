"""What browsers get: the service worker, the key to subscribe to, and the section that turns notifications on."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as configured
from django.test import Client as Browser

from apps.accounts import services as accounts
from apps.push import vapid
from apps.push.vapid_key import new_private_key
from tests.embedded import PASSWORD

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"


@pytest.fixture
def ada(db: None) -> Browser:
    browser = Browser(headers={"User-Agent": FIREFOX})
    browser.force_login(accounts.sign_up("ada", PASSWORD, "Ada"))
    return browser


def test_the_service_worker_is_at_the_root_so_that_it_serves_every_page(client: Browser) -> None:
    served = client.get("/sw.js")
    assert served.status_code == 200
    assert served["Content-Type"] == "text/javascript; charset=utf-8"
    assert served["Cache-Control"] == "no-cache"
    assert served.content == (Path(configured.BASE_DIR) / "static/chat/sw.js").read_bytes()
    assert client.post("/sw.js").status_code == 405


def test_the_policy_of_pages_lets_the_service_worker_in(client: Browser) -> None:
    policy = dict(part.strip().split(" ", 1) for part in client.get("/sw.js")["Content-Security-Policy"].split(";"))
    assert policy["worker-src"] == "'self'"
    assert "'self'" in policy["connect-src"].split()


@pytest.mark.parametrize("key", [new_private_key(), ""])
@pytest.mark.parametrize("page", ["/settings/", "/"])
def test_a_page_knows_the_key_that_browsers_subscribe_to(ada: Browser, settings: Any, page: str, key: str) -> None:
    settings.WEBPUSH_PRIVATE_KEY = key
    served = ada.get(page).content.decode()
    assert f'data-key="{vapid.public_key()}" data-name="Firefox on Linux"' in served
    assert key not in served or not key
    assert '<meta name="csrf-token" content="' in served  # sw.js looks for exactly this


def test_the_settings_have_notifications_on_this_device(ada: Browser) -> None:
    assert "Notifications on this device" in ada.get("/settings/").content.decode()

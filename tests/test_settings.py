"""Settings are read when a process starts, so that each of these is a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAFE = {
    "SECRET_KEY": "f0rTh1sTestOnly-" * 4,
    "ALLOWED_HOSTS": "chat.example.org",
    "CHAT_ORIGINS": "https://chat.example.org",
    "TRUSTED_PROXIES": "1",
}


def manage(*arguments: str, settings: str, data: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "DATA": str(data),
        "DJANGO_SETTINGS_MODULE": f"chatproject.settings.{settings}",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *arguments],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_production_settings_pass_the_deployment_checks(tmp_path: Path) -> None:
    done = manage("check", "--deploy", "--fail-level", "WARNING", settings="production", data=tmp_path, **SAFE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SECRET_KEY", None, "SECRET_KEY is missing"),
        ("SECRET_KEY", "short", "SECRET_KEY must be 50"),
        ("DEBUG", "1", "DEBUG must be off"),
        ("ALLOWED_HOSTS", None, "ALLOWED_HOSTS is missing"),
        ("ALLOWED_HOSTS", "*", "ALLOWED_HOSTS must name each host, not '*'"),
        ("ALLOWED_HOSTS", "chat.example.org,.example.org", "ALLOWED_HOSTS must name each host, not '.example.org'"),
        ("CHAT_ORIGINS", None, "CHAT_ORIGINS is missing"),
        ("CHAT_ORIGINS", "http://chat.example.org", "CHAT_ORIGINS must be https"),
    ],
)
def test_production_refuses_to_start(tmp_path: Path, variable: str, value: str | None, said: str) -> None:
    variables = {name: text for name, text in SAFE.items() if name != variable}
    if value is not None:
        variables[variable] = value
    done = manage("check", settings="production", data=tmp_path, **variables)
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "abc"),
        ("PORT", "70000"),
        ("STACK", "half"),
        ("DEBUG", "maybe"),
        ("CHAT_SENDS_PER_10S", "-1"),
        ("CHAT_SOCKETS_PER_USER", "0"),
        ("CHAT_REGISTRATION_OPEN", "2"),
        ("CHAT_ORIGINS", "chat.example.org"),
        ("CHAT_ORIGINS", "https://chat.example.org/"),
        ("CHAT_ORIGINS", "https://*.example.org"),
        ("WEBPUSH_CONTACT", "the admin"),
    ],
)
def test_rubbish_in_a_setting_is_named_in_one_line(tmp_path: Path, variable: str, value: str) -> None:
    done = manage("check", settings="base", data=tmp_path, **{variable: value})
    assert done.returncode != 0
    assert variable in done.stderr.splitlines()[-1]
    assert repr(value) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "value"), [("WEBPUSH_CONTACT", "mailto:ada@example.org"), ("WEBPUSH_ALLOW_PRIVATE", "yes")]
)
def test_half_of_web_push_is_refused_with_what_is_missing(tmp_path: Path, given: str, value: str) -> None:
    done = manage("check", settings="base", data=tmp_path, **{given: value})
    assert done.returncode != 0
    assert "WEBPUSH_PRIVATE_KEY is missing" in done.stderr.splitlines()[-1]


APNS = {"APNS_KEY_FILE": "key.p8", "APNS_KEY_ID": "KEY1234567", "APNS_TEAM_ID": "TEAM123456", "APNS_TOPIC": "org.chat"}


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"FCM_TOKEN_URI": "http://127.0.0.1/token"}, "FCM_SERVICE_ACCOUNT_FILE is missing"),
        ({"FCM_ENDPOINT": "http://127.0.0.1/v1/projects"}, "FCM_SERVICE_ACCOUNT_FILE is missing"),
        ({"APNS_HOST": "127.0.0.1"}, "APNS_KEY_FILE and APNS_KEY_ID and APNS_TEAM_ID and APNS_TOPIC is missing"),
        ({**APNS, "APNS_TEAM_ID": ""}, "APNS_TEAM_ID is missing"),
        ({**APNS, "APNS_TOPIC": ""}, "APNS_TOPIC is missing"),
    ],
)
def test_half_of_fcm_or_apns_is_refused_with_what_is_missing(
    tmp_path: Path, given: dict[str, str], missing: str
) -> None:
    done = manage("check", settings="base", data=tmp_path, **given)
    assert done.returncode != 0
    assert missing in done.stderr.splitlines()[-1]

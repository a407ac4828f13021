"""The documents know what a user can meet: each setting, frame, error, route and metric; and the commands work."""

import re
from pathlib import Path

import pytest
from django.urls import URLPattern
from prometheus_client import REGISTRY

from apps.conversations import errors, protocol
from apps.conversations.api import urls as api
from apps.presence import metrics

ROOT = Path(__file__).parent.parent
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

SETTINGS = sorted(
    {
        name
        for file in ("settings/base.py", "settings/production.py", "supervisor.py")
        for name in re.findall(
            r"(?:env\.\w+|whole|yes_or_no|_number|_choice|environ\.get)\(\s*\"([A-Z][A-Z_0-9]+)\"",
            (ROOT / "chatproject" / file).read_text(),
        )
    }
)
CODES = sorted(error.code for error in errors.ChatError.__subclasses__())
EVENTS = sorted(
    tag for struct in vars(protocol).values()
    if isinstance(tag := getattr(getattr(struct, "__struct_config__", None), "tag", None), str)
)  # fmt: skip
ROUTES = [str(route.pattern) for route in api.urlpatterns if isinstance(route, URLPattern) and str(route.pattern)]
METRICS = sorted(family.name for family in REGISTRY.collect() if family.name.startswith("chat_"))


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_is_in_configuration(setting: str) -> None:
    assert f"`{setting}`" in CONFIGURATION


@pytest.mark.parametrize("setting", re.findall(r"^\| `([A-Z_0-9]+)`", CONFIGURATION, re.MULTILINE))
def test_each_documented_setting_exists(setting: str) -> None:
    assert setting in SETTINGS


@pytest.mark.parametrize("code", CODES)
def test_each_error_code_is_in_the_protocol(code: str) -> None:
    assert f"`{code}`" in PROTOCOL


@pytest.mark.parametrize("event", EVENTS)
def test_each_frame_is_in_the_protocol(event: str) -> None:
    assert f"`{event}`" in PROTOCOL


@pytest.mark.parametrize("close_code", ["4400", "4401", "4403", "4408", "4409", "4413", "4429", "1012", "1013"])
def test_each_close_code_is_in_the_protocol(close_code: str) -> None:
    assert close_code in PROTOCOL


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_is_in_the_protocol(route: str) -> None:
    # "conversations/<uuid:conversation_id>/members" is told as conversations/{id}/members
    told = re.sub(r"<uuid:\w+>", "{id}", re.sub(r"<username:username>", "{username}", route)).rstrip("$")
    assert told in PROTOCOL


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_is_in_operations(metric: str) -> None:
    assert metrics.connections is not None
    assert f"`{metric}" in OPERATIONS


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README + OPERATIONS))))
def test_each_make_command_exists(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_ci_runs_what_readme_says() -> None:
    steps = (ROOT / ".ci/run").read_text().splitlines()
    assert "make check" in steps
    assert "make test" in steps
    assert re.search(r"^make test ", README, re.MULTILINE)


DOCUMENTS = [str(file.relative_to(ROOT)) for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_link_leads_somewhere(document: str) -> None:
    file = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
        assert "://" in target or (file.parent / target).exists(), target

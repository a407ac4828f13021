"""The OpenAPI document against the running API: schemathesis asks what the document allows, and what it forbids."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
import uvicorn
from django.core.cache import cache
from django.core.management import call_command
from schemathesis import checks

from apps.conversations.api import about
from chatproject.asgi import application
from tests.embedded import Client, sign_up

DOCUMENT = json.loads(about.openapi())
# Whether rubbish is refused is asked in test_api.py: much of what schemathesis calls invalid is valid once trimmed.
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]

# Methods that no operation has are asked of the views in test_api.py; HTTP libraries disagree on what their bodies are.
CONFIG = schemathesis.Config.from_dict({"phases": {"coverage": {"unexpected-methods": []}}})

schema = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


class Server(uvicorn.Server):
    """In a thread of its own, on a free port, until told to stop."""

    def __init__(self) -> None:
        super().__init__(
            uvicorn.Config(application, port=0, lifespan="on", log_level="error", ws="none", http="h11", loop="asyncio")
        )
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @property
    def url(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()
        return f"http://{host}:{port}"


@pytest.fixture
def server(embedded_valkey: str, settings: Any, tmp_path: Path, transactional_db: None) -> Iterator[str]:
    settings.REDIS_URL = embedded_valkey
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "apps.presence.bus.ChannelLayer", "CONFIG": {"url": embedded_valkey}}
    }
    settings.HISTORY_PATH = tmp_path / "history.sqlite3"
    cache.clear()
    running = Server()
    thread = threading.Thread(target=running.run)
    thread.start()
    assert running.ready.wait(20)
    yield running.url
    running.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def ada(server: str) -> Client:
    return sign_up("ada")


@pytest.fixture
def group(server: str, ada: Client) -> str:
    """A group of Ada's with Bob and something said."""
    sign_up("bob")
    with httpx.Client(base_url=f"{server}/api/v1", headers=ada.headers) as http:
        made = http.post("/conversations", json={"kind": "group", "title": "Club", "members": ["bob"]})
        return str(made.raise_for_status().json()["id"])


@schema.parametrize()
@hypothesis.settings(
    max_examples=15,
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_every_answer_is_as_the_document_says(case: Any, server: str, ada: Client, group: str) -> None:
    known = {"conversation_id": group, "username": "bob"}
    case.path_parameters = {name: known.get(name, value) for name, value in case.path_parameters.items()}
    case.call_and_validate(base_url=server, headers=ada.headers, checks=CHECKS)


def test_a_body_may_come_in_chunks(server: str, ada: Client) -> None:
    chunks = iter([b'{"display_name": ', b'"Countess"}'])
    headers = ada.headers | {"Content-Type": "application/json"}
    changed = httpx.patch(f"{server}/api/v1/users/me", content=chunks, headers=headers)
    assert (changed.status_code, changed.json()["display_name"]) == (200, "Countess")


def test_the_document_is_valid_and_made_without_a_warning(tmp_path: Path) -> None:
    call_command("spectacular", file=str(tmp_path / "schema.yml"), validate=True, fail_on_warn=True)


def test_the_document_is_openapi_3_1_and_served_as_json(client: Any) -> None:
    served = client.get("/api/v1/schema")
    assert served["Content-Type"] == "application/json"
    assert served.json() == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    "operation",
    [
        "POST /auth/token", "DELETE /auth/token", "POST /users", "GET /users", "GET /users/me", "PATCH /users/me",
        "GET /users/me/blocks", "POST /users/me/blocks", "DELETE /users/me/blocks/{username}",
        "GET /users/me/devices", "POST /users/me/devices", "DELETE /users/me/devices",
        "DELETE /users/me/devices/{device_id}", "GET /push/vapid-key",
        "GET /conversations", "POST /conversations", "GET /conversations/{conversation_id}",
        "PATCH /conversations/{conversation_id}", "POST /conversations/{conversation_id}/members",
        "PATCH /conversations/{conversation_id}/members/{username}",
        "DELETE /conversations/{conversation_id}/members/{username}",
        "GET /conversations/{conversation_id}/messages", "POST /conversations/{conversation_id}/messages",
        "PUT /conversations/{conversation_id}/read", "GET /presence",
    ],
)  # fmt: skip
def test_the_document_has_every_operation_of_the_protocol(operation: str) -> None:
    method, path = operation.split()
    described = DOCUMENT["paths"][f"/api/v1{path}"][method.lower()]
    assert described["description"]
    assert "default" in described["responses"]


def test_only_login_and_sign_up_are_open_in_the_document() -> None:
    opened = {
        operation["operationId"]
        for operations in DOCUMENT["paths"].values()
        for operation in operations.values()
        if not operation.get("security")
    }
    assert opened == {"log_in", "sign_up"}


def test_the_docs_page_loads_nothing_from_elsewhere(client: Any) -> None:
    page = client.get("/api/v1/docs")
    assert page.status_code == 200
    assert "http://" not in page.content.decode() and "https://" not in page.content.decode()
    policy = page["Content-Security-Policy"]
    assert "script-src 'self'" in policy.split("; ")
    assert "style-src 'self' 'unsafe-inline'" in policy.split("; ")
    assert "unsafe-inline" not in client.get("/api/v1/schema")["Content-Security-Policy"]
    script = client.get("/api/v1/docs?script=")
    assert script["Content-Type"].startswith("application/javascript")
    assert "/api/v1/schema" in script.content.decode()

"""A node that audits its own recent conversations, by itself."""

import asyncio
import sqlite3
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as django_settings

from apps.conversations import sampler
from apps.conversations.errors import Unavailable
from apps.presence import metrics
from tests.embedded import Client


@pytest.fixture
async def conversation_id(ada: Client, bob: Client) -> UUID:
    """Three messages, a moment ago."""
    tea = await ada.post("conversations", {"kind": "group", "title": "tea", "members": ["bob"]})
    for number in (1, 2):
        said = {"content": "hello", "client_msg_id": str(UUID(int=number))}
        await ada.post(f"conversations/{tea.json()['id']}/messages", said)
    return UUID(tea.json()["id"])


def damage(conversation_id: UUID) -> None:
    with sqlite3.connect(django_settings.HISTORY_PATH) as db:
        db.execute("DELETE FROM message_log WHERE conversation_id = ? AND seq = 2", (conversation_id.bytes,))
    db.close()


def counted() -> tuple[float, float]:
    return metrics.audited._value.get(), metrics.audit_violations._value.get()


async def test_what_is_in_order_is_counted_and_no_more(conversation_id: UUID) -> None:
    audited, violations = counted()
    await sampler.sample()

    assert counted() == (audited + 3, violations)


async def test_damage_is_an_error_in_the_log_and_a_metric(
    conversation_id: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    damage(conversation_id)
    audited, violations = counted()
    await sampler.sample()

    assert counted() == (audited + 2, violations + 1)
    (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert error == f"the audit found: hole: no message under 2 (conversation {conversation_id})"


async def test_a_node_through_which_nothing_came_has_nothing_to_audit(chat: None) -> None:
    before = counted()
    await sampler.sample()

    assert counted() == before


async def test_a_node_does_it_again_whatever_happened(
    chat: None, settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = iter([Unavailable("The history is busy."), RuntimeError("a bug"), None])
    third_time = asyncio.Event()

    async def sample() -> None:
        trouble = next(troubles)
        if trouble is not None:
            raise trouble
        third_time.set()

    monkeypatch.setattr(sampler, "sample", sample)
    settings.CHAT_AUDIT_INTERVAL = 0.01
    running = sampler.running()
    await asyncio.wait_for(third_time.wait(), 10)
    running.cancel()
    await asyncio.wait([running])

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == ["an audit failed"]

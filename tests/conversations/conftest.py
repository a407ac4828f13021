import pytest

from apps.conversations import tasks
from apps.push import sending
from tests.conversations.pushes import FakeProvider


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """Whatever platform a device is of; the tasks that send run at once."""
    fake = FakeProvider()
    monkeypatch.setattr(sending, "provider_for", lambda platform: fake)
    monkeypatch.setattr(tasks.send_pushes, "delay", tasks.send_pushes)
    monkeypatch.setattr(tasks.notify_absent, "delay", lambda notices: None)
    return fake

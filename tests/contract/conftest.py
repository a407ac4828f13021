import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apps.conversations.history.base import HistoryStore
from tests.contract.backends import Backend, Cassandra, Line, Sqlite

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def cassandra_log(cassandra_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a Cassandra whose tables the project's own command has made."""
    environment = os.environ | {
        "CASSANDRA_URL": cassandra_url,
        "DATA": str(tmp_path_factory.mktemp("sync")),
        "SECRET_KEY": "only for tests",
        "DJANGO_SETTINGS_MODULE": "chatproject.settings.base",
    }
    command = [sys.executable, "manage.py", "sync_cassandra"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=90, stdout=subprocess.DEVNULL)
    return cassandra_url


@pytest.fixture(params=["sqlite", pytest.param("cassandra", marks=pytest.mark.services)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param == "sqlite":
        yield Sqlite(str(tmp_path / "history.sqlite3"))
        return
    url = request.getfixturevalue("cassandra_log")
    async with Line(url) as line:
        yield Cassandra(url, line)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[HistoryStore]:
    store = backend.store()
    await store.start()
    yield store
    await store.close()

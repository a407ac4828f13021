"""What the chat asks of PostgreSQL besides SQL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import ROOT

pytestmark = pytest.mark.services

OUTLIVES_ITS_CONNECTIONS = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import django
django.setup()
from django.db import connection

def ask(query, together=None):
    with connection.cursor() as cursor:
        if together:
            together.wait(10)
        cursor.execute(query)
    connection.close()  # as at the end of a request: back into the pool

def ask_at_once(number):
    together = Barrier(number)
    with ThreadPoolExecutor(number) as threads:
        list(threads.map(lambda _: ask("SELECT 1", together), range(number)))

ask_at_once(4)
ask(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
ask_at_once(4)
print("still there")
"""


def test_a_database_that_was_away_fails_no_request_once_it_is_back(postgres_url: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "DATABASE_URL": postgres_url,
        "DATA": str(tmp_path),
        "SECRET_KEY": "only for tests",
        "DJANGO_SETTINGS_MODULE": "chatproject.settings.base",
    }
    command = [sys.executable, "-c", OUTLIVES_ITS_CONNECTIONS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "still there\n", done.stderr[-2_000:]

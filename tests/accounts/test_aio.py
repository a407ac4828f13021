import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import OperationalError, connection, connections

from apps.accounts import aio


@pytest.mark.django_db
async def test_so_many_may_wait_for_the_database_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "MAX_ASKING", 3)
    answer = threading.Event()
    asking = [asyncio.create_task(aio.in_db(answer.wait, 10)) for _ in range(3)]
    await asyncio.sleep(0)  # now they ask

    with pytest.raises(OperationalError):
        await aio.in_db(answer.is_set)

    answer.set()
    assert await asyncio.gather(*asking) == [True] * 3
    assert await aio.in_db(answer.is_set)


@pytest.mark.django_db
async def test_a_thread_keeps_its_connection_to_sqlite_until_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = ThreadPoolExecutor(1)
    monkeypatch.setattr(aio, "_SQL_THREADS", thread)

    def ask(question: str) -> object:
        with connection.cursor() as cursor:
            cursor.execute(question)
        return connection.connection

    kept = await aio.in_db(ask, "SELECT 1")
    assert await aio.in_db(ask, "SELECT 1") is kept

    with pytest.raises(OperationalError):
        await aio.in_db(ask, "SELECT nothing FROM nowhere")
    assert await aio.in_db(ask, "SELECT 1") is not kept
    await aio.in_db(connections.close_all)
    thread.shutdown()

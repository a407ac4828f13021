import asyncio
import threading

import pytest
from django.db import OperationalError

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

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


class Shop:
    """Answers while `is_open`, and writes down what it was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.was_asked, self.is_open = threading.Event(), threading.Event()

    def price(self, wanted: list[str]) -> list[int]:
        self.asked.append(wanted)
        self.was_asked.set()
        self.is_open.wait(10)
        if "moon" in wanted:
            raise LookupError("nobody sells that")
        return [len(each) for each in wanted]


@pytest.mark.django_db
async def test_those_who_come_meanwhile_are_asked_for_together() -> None:
    shop = Shop()
    together = aio.Together(shop.price)
    first = asyncio.create_task(together.ask("tea"))
    await asyncio.to_thread(shop.was_asked.wait, 10)
    others = [asyncio.create_task(together.ask(each)) for each in ("coffee", "milk", "cocoa")]
    await asyncio.sleep(0)
    others.pop(1).cancel()
    shop.is_open.set()
    assert await first == 3
    assert await asyncio.gather(*others) == [6, 5]
    assert shop.asked == [["tea"], ["coffee", "cocoa"]]
    assert await together.ask("tea") == 3


@pytest.mark.django_db
async def test_all_of_one_question_hear_that_it_failed_and_later_ones_are_asked() -> None:
    shop = Shop()
    together = aio.Together(shop.price)
    first = asyncio.create_task(together.ask("tea"))
    await asyncio.to_thread(shop.was_asked.wait, 10)
    others = [asyncio.create_task(together.ask(each)) for each in ("moon", "milk")]
    await asyncio.sleep(0)
    shop.is_open.set()
    assert await first == 3
    assert all(isinstance(each, LookupError) for each in await asyncio.gather(*others, return_exceptions=True))
    assert await together.ask("milk") == 4


@pytest.mark.django_db
async def test_an_answer_that_does_not_fit_the_questions_is_an_error() -> None:
    together: aio.Together[str, int] = aio.Together(lambda wanted: [])
    with pytest.raises(ValueError, match="zip"):
        await together.ask("tea")

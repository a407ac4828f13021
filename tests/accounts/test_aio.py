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


@pytest.fixture
def one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "LISTS_AT_ONCE", 1)


async def ask(together: "aio.Together[str, int]", *wanted: str) -> list["asyncio.Task[int]"]:
    asking = [asyncio.create_task(together.ask(each)) for each in wanted]
    await asyncio.sleep(0)
    return asking


@pytest.mark.django_db
@pytest.mark.usefixtures("one_at_once")
async def test_those_who_come_meanwhile_are_asked_for_together() -> None:
    shop = Shop()
    together = aio.Together(shop.price)
    (first,) = await ask(together, "tea")
    await asyncio.to_thread(shop.was_asked.wait, 10)
    coffee, milk, cocoa = await ask(together, "coffee", "milk", "cocoa")
    milk.cancel()
    shop.is_open.set()
    assert await asyncio.gather(first, coffee, cocoa) == [3, 6, 5]
    assert shop.asked == [["tea"], ["coffee", "cocoa"]]
    assert await together.ask("tea") == 3


@pytest.mark.django_db
@pytest.mark.usefixtures("one_at_once")
async def test_all_of_one_question_hear_that_it_failed_and_later_ones_are_asked() -> None:
    shop = Shop()
    together = aio.Together(shop.price)
    (first,) = await ask(together, "tea")
    await asyncio.to_thread(shop.was_asked.wait, 10)
    others = await ask(together, "moon", "milk")
    shop.is_open.set()
    assert await first == 3
    assert all(isinstance(each, LookupError) for each in await asyncio.gather(*others, return_exceptions=True))
    assert await together.ask("milk") == 4


@pytest.mark.django_db
@pytest.mark.usefixtures("one_at_once")
@pytest.mark.parametrize(("second", "outcome"), [("milk", int), ("moon", LookupError)])
async def test_who_goes_away_while_they_are_asked_for_holds_up_nobody(second: str, outcome: type) -> None:
    shop = Shop()
    together = aio.Together(shop.price)
    tea, other = await ask(together, "tea", second)
    await asyncio.to_thread(shop.was_asked.wait, 10)
    tea.cancel()
    shop.is_open.set()
    assert [type(each) for each in await asyncio.gather(other, return_exceptions=True)] == [outcome]
    assert shop.asked == [["tea", second]]
    assert await together.ask("cocoa") == 5


@pytest.mark.django_db
async def test_a_list_that_hangs_holds_up_only_those_who_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "MAX_TOGETHER", 2)
    hangs = threading.Event()

    def price(wanted: list[str]) -> list[int]:
        if "moon" in wanted:
            hangs.wait(10)
        return [len(each) for each in wanted]

    together = aio.Together(price)
    moon, tea, *others = await ask(together, "moon", "tea", "coffee", "milk", "cocoa")
    assert await asyncio.gather(*others) == [6, 4, 5]
    assert not moon.done()
    assert not tea.done()
    hangs.set()
    assert await asyncio.gather(moon, tea) == [4, 3]


@pytest.mark.django_db
async def test_an_answer_that_does_not_fit_the_questions_is_an_error() -> None:
    together: aio.Together[str, int] = aio.Together(lambda wanted: [])
    with pytest.raises(ValueError, match="zip"):
        await together.ask("tea")

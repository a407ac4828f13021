"""Between the event loop and the rest: SQL in a few threads, one object per loop, and tasks that many wait for."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from django.db import OperationalError, connection

from apps.presence import metrics

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

MAX_ASKING = 1_000
LISTS_AT_ONCE = 4
MAX_TOGETHER = 16  # in one list
_SQL_THREADS = ThreadPoolExecutor(8, thread_name_prefix="sql")
_asking = 0


async def in_db(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run `function`, which uses the ORM, without holding up the loop, nor every other caller in one shared thread.

    Raises OperationalError, as the database itself does, when too many are asking already.
    """
    global _asking
    if _asking >= MAX_ASKING:
        metrics.overflows.labels("sql").inc()
        raise OperationalError(f"{MAX_ASKING} questions are waiting for the database")
    _asking += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_SQL_THREADS, partial(_ask, function, *args, **kwargs))
    finally:
        _asking -= 1


def _ask(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return function(*args, **kwargs)
    finally:
        give_back_connection()


def give_back_connection() -> None:
    """
    PostgreSQL's goes back to its pool. SQLite's stays with the thread, as to open one costs more than what is asked;
    not after an error that no rollback has mended, as it may be broken.
    """
    if connection.vendor != "sqlite" or connection.errors_occurred:
        connection.close_if_unusable_or_obsolete()


def retrieve(task: "asyncio.Task[Any]") -> None:
    """As a done callback, of a task that others wait for: with none of them left, asyncio would log its exception."""
    if not task.cancelled():
        task.exception()


class Together(Generic[Q, A]):
    """
    What many ask of the database at once, in few questions: those who come while it answers are asked for together.

    `function` answers each of a list, in its order. Where it fails, all of that list hear of it. Of those who wait the
    caller has to bound the number.
    """

    def __init__(self, function: Callable[[list[Q]], Sequence[A]]) -> None:
        self._function = function
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._asking: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """Raises what the function does, and OperationalError as `in_db`."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if len(self._asking) < LISTS_AT_ONCE:  # not one: a connection that hangs holds up only some
            task = asyncio.create_task(self._ask_on())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return await answer

    async def _ask_on(self) -> None:
        while self._waiting:
            asked = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_TOGETHER))]
            await self._answer([each for each in asked if not each[1].done()])  # who has not gone away

    async def _answer(self, asked: Sequence[tuple[Q, "asyncio.Future[A]"]]) -> None:
        try:
            given = await in_db(self._function, [question for question, _ in asked])
            for (_, answer), result in zip(asked, given, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except Exception as error:  # noqa: BLE001 each who asked hears of it
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
        finally:
            for _, answer in asked:
                answer.cancel()  # of a loop that ends; the others are done


def per_loop(factory: Callable[[], T]) -> Callable[[], T]:
    """What `factory` makes, once per running event loop: connections belong to the loop that opened them."""
    made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    @wraps(factory)
    def of_this_loop() -> T:
        loop = asyncio.get_running_loop()
        try:
            return made[loop]
        except KeyError:
            made[loop] = one = factory()
            return one

    return of_this_loop

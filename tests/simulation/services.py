"""
What a chat node has around it: services that take requests over a network.

Any request or answer may be late or lost. An answer that is late or lost looks the same to whoever waits for it, and
the request may have been carried out all the same, even after that.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.simulation.scheduler import Process, Scheduler


class Service:
    """`away` and `lost` make the errors of its client library: nobody there, and no answer in time."""

    def __init__(
        self, name: str, scheduler: Scheduler, away: Callable[[], Exception], lost: Callable[[], Exception]
    ) -> None:
        self.name = name
        self._scheduler = scheduler
        self._away_error, self._lost_error = away, lost
        self.is_away = False
        self.loses = 0.0  # how likely a request or its answer gets lost
        self.late_s = 0.0  # how much longer, at most, a request is on its way than usual

    def ask(self, carry_out: Callable[[], Any], timeout_s: float = 2.0) -> "asyncio.Future[Any]":
        process = self._scheduler.running
        assert process is not None
        answer = process.create_future()
        chance = self._scheduler.random.random
        there, back = (0.0005 + 0.002 * chance() for _ in range(2))
        there += self.late_s * chance()
        is_lost = self.loses > 0 and chance() < self.loses
        if is_lost or there + back > timeout_s:
            if not is_lost or chance() < 0.5:
                self._scheduler.after(there, self._carry_out, carry_out)
            self._answer_in(timeout_s, process, answer, self._lost_error())
        else:
            self._scheduler.after(there, self._answer, process, answer, carry_out, back)
        return answer

    def _answer(
        self, process: Process, answer: "asyncio.Future[Any]", carry_out: Callable[[], Any], back_s: float
    ) -> None:
        self._answer_in(back_s, process, answer, self._carry_out(carry_out))

    def _carry_out(self, carry_out: Callable[[], Any]) -> Any:
        if self.is_away:
            return self._away_error()
        try:
            return carry_out()
        except Exception as error:  # noqa: BLE001 it travels back to whoever asked
            return error

    def _answer_in(self, seconds: float, process: Process, answer: "asyncio.Future[Any]", result: Any) -> None:
        self._scheduler.at(self._scheduler.now + seconds, process, _give, answer, result)


def _give(answer: "asyncio.Future[Any]", result: Any) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)

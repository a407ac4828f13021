"""
Time, and whose turn it is.

Every process of a simulation has an event loop of its own. Within a process callbacks run in the order in which asyncio
runs them; between processes the seed decides. Time passes only when nobody has anything to do. A process that is killed
never runs again, wherever it was; one that is frozen goes on later, with everything that came meanwhile.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context
from itertools import count
from random import Random
from typing import Any

START_S = 1_000.0  # of the monotonic clock: nothing depends on its beginning


class Event:
    """A callback that waits for its turn. asyncio's handles do the same at several times the cost."""

    __slots__ = ("_when", "args", "callback", "context", "process")

    def __init__(
        self, process: "Process | None", callback: Any, args: tuple[Any, ...], context: Context | None, when: float = 0
    ) -> None:
        self.process, self.callback, self.args, self.context = process, callback, args, context
        self._when = when

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self._when

    def run(self) -> None:
        if self.callback is None:
            return
        if self.context is None:
            self.callback(*self.args)
        else:
            self.context.run(self.callback, *self.args)


class Scheduler:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = START_S
        self.steps = 0
        self.running: Process | None = None
        self.enter: Callable[[Process], None] = lambda process: None
        self.noticed: list[str] = []  # errors that nobody was there to take
        self._awake: list[Process] = []
        self._timers: list[tuple[float, int, Event]] = []
        self._serial = count()

    def at(self, when: float, process: "Process | None", callback: Any, *args: Any) -> Event:
        """In that process, or outside of all."""
        event = Event(process, callback, args, None, when)
        self.add_timer(event)
        return event

    def after(self, seconds: float, callback: Any, *args: Any) -> Event:
        return self.at(self.now + seconds, None, callback, *args)

    def add_timer(self, event: Event) -> None:
        heapq.heappush(self._timers, (event.when(), next(self._serial), event))

    def woke(self, process: "Process") -> None:
        self._awake.append(process)

    def sleeps(self, process: "Process") -> None:
        if process in self._awake:
            self._awake.remove(process)

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> None:
        """Until that time, or until `done`, which is asked whenever time is about to pass."""
        while True:
            self._run_ready()
            if done():
                return
            while self._timers and self._timers[0][2].cancelled():
                heapq.heappop(self._timers)
            if not self._timers or self._timers[0][0] > end:
                self.now = end
                return
            self.now = max(self.now, self._timers[0][0])
            while self._timers and self._timers[0][0] <= self.now:
                self._due(heapq.heappop(self._timers)[2])

    def _due(self, event: Event) -> None:
        if event.process is not None:
            event.process.add(event)
        else:
            event.run()

    def _run_ready(self) -> None:
        awake = self._awake
        while awake:
            process = awake[int(self.random.random() * len(awake))] if len(awake) > 1 else awake[0]
            if process is not self.running:
                self.running = process
                asyncio._set_running_loop(process)
                self.enter(process)
            event = process.ready.popleft()
            if not process.ready:
                awake.remove(process)
            self.steps += 1
            event.run()
            process.stepped()
        self.running = None
        asyncio._set_running_loop(None)


class Process(asyncio.AbstractEventLoop):
    """One process, seen from asyncio: an event loop. What it remembers is gone with it."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.ready: deque[Event] = deque()
        self.is_dead = self.is_frozen = False
        self.on_death: Callable[[], None] = lambda: None
        self.dies_in: int | None = None  # callbacks from now
        self.skew_s = 0.0  # of its wall clock

    def __repr__(self) -> str:
        return self.name

    # --- its fate ----------------------------------------------------------------------------------------------------
    def kill(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            self.ready.clear()
            self.scheduler.sleeps(self)
            self.on_death()

    def freeze(self) -> None:
        if not self.is_dead:
            self.is_frozen = True
            self.scheduler.sleeps(self)

    def thaw(self) -> None:
        if self.is_frozen and not self.is_dead:
            self.is_frozen = False
            if self.ready:
                self.scheduler.woke(self)

    def stepped(self) -> None:
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in <= 0:
                self.kill()

    def add(self, event: Event) -> None:
        if self.is_dead or event.cancelled():
            return
        if not self.ready and not self.is_frozen:
            self.scheduler.woke(self)
        self.ready.append(event)

    # --- what asyncio asks of a loop ---------------------------------------------------------------------------------
    def time(self) -> float:
        return self.scheduler.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        event = Event(self, callback, args, context)
        self.add(event)
        return event

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self.scheduler.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        event = Event(self, callback, args, context, when)
        self.scheduler.add_timer(event)
        return event

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> Any:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.is_dead

    def is_closed(self) -> bool:
        return self.is_dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not self.is_dead:
            self.scheduler.noticed.append(f"{self.name}: {context['message']}: {error!r}")

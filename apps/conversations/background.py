"""
The one event loop of a worker process, for what is only asynchronous: the history and presence.

Connections belong to the loop that opened them, and a worker's threads have none: so there is one loop in a thread of
its own, made when it is first needed (after a fork).
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from apps.conversations import history

T = TypeVar("T")

LONGEST_S = 30


class Background:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """From a thread without a loop: what `work` returns or raises. Raises TimeoutError after 30 s."""
        return asyncio.run_coroutine_threadsafe(work, self._running()).result(LONGEST_S)

    def close(self) -> None:
        """Let go of the connections; what comes afterwards opens others."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(history.close(), loop).result(LONGEST_S)
            loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=_run_until_stopped, args=[self._loop], name="background", daemon=True).start()
            return self._loop


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


background = Background()

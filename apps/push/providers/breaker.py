"""
A circuit breaker: a provider that keeps failing is left alone for a while, and then asked by one push at a time.

It is our own, because the libraries count exceptions, read the clock by themselves, or hold a lock for as long as a
call takes, and here failures are values, time is an argument, and many threads call at once.
"""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import msgspec
from prometheus_client import Gauge

from apps.push.notification import Push
from apps.push.providers.base import Outcome, Provider, Result

FAILURES = 20  # in a row, from whichever devices
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0  # doubled by each probe that fails
PROBE_S = 1.0  # how long the others wait to hear of a probe

is_open = Gauge("chat_push_breaker_open", "1 while a provider is left alone because it keeps failing", ["provider"])


class Breaker:
    """Closed until FAILURES in a row. Times are in seconds of any clock that does not jump."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE_S
        self._opened_at: float | None = None
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    def wait(self, now: float) -> float:
        """How long not to call. 0: call now, and `record` what came of it; while it is open that is the probe."""
        if self._opened_at is None:
            return 0
        if self._is_probing:
            return PROBE_S
        left = self._opened_at + self._pause - now
        if left <= 0:
            self._is_probing = True
        return max(left, 0)

    def record(self, has_failed: bool, is_probe: bool, now: float) -> None:
        if not has_failed:
            self._failures, self._pause = 0, FIRST_PAUSE_S
            self._opened_at, self._is_probing = None, False
        elif is_probe:
            self._opened_at, self._is_probing = now, False
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        elif self._opened_at is None:
            self._failures += 1
            if self._failures >= FAILURES:
                self._opened_at = now


class Guarded:
    """A provider behind a breaker. While that is open, the answer is the last failure's, with the time to wait."""

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = provider.name
        self._clock = clock
        self._provider = provider
        self._breaker = Breaker()
        self._lock = threading.Lock()
        self._last_failure = Result(Outcome.RETRY)

    def send(self, token: str, push: Push) -> Result:
        with self._lock:
            wait = self._breaker.wait(self._clock())
            is_probe = self._breaker.is_open
            last = self._last_failure
        if wait:
            error = f"left alone for now, after: {last.error}"[:200]
            return msgspec.structs.replace(last, error=error, retry_after=timedelta(seconds=wait))
        result = Result(Outcome.RETRY, error="the call broke off")
        try:
            result = self._provider.send(token, push)
        finally:
            self._record(result, is_probe)
        return result

    def _record(self, result: Result, is_probe: bool) -> None:
        has_failed = result.outcome in (Outcome.RETRY, Outcome.MISCONFIGURED)
        with self._lock:
            self._breaker.record(has_failed, is_probe, self._clock())
            if has_failed:
                self._last_failure = result
            is_open.labels(self.name).set(self._breaker.is_open)

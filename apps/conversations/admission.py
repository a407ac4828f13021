"""
Whether this node takes in one more connection: better a plain "later" at the door than everyone inside waiting.

What it is about to be asked for is answered with 503 before the upgrade, or before Django sees the request.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

from django.conf import settings

from apps.accounts.address import address_of, is_this_machine
from apps.accounts.aio import per_loop
from apps.conversations import throttle
from apps.conversations.errors import RateLimited
from apps.conversations.history.pressure import Pressure
from apps.presence import metrics

MAX_HANDSHAKES = 4_000  # under way: some seconds' work
HANDSHAKES_AT_ONCE = 64  # of these: enough to share round trips, too few to hold up those who are in
MAX_WAIT_S = 10  # for a turn; less than the server gives a handshake
MAX_REQUESTS = 200  # the same for HTTP, where each has a thread
MAX_LAG_S = 1.0
LOOK_EVERY_S = 0.1


class Refusal(NamedTuple):
    status: int
    close_code: int  # the same, for a server that can refuse only what it has accepted
    reason: str
    retry_after_s: int


def later(reason: str) -> Refusal:
    return Refusal(503, 1012 if reason == "draining" else 1013, reason, random.randint(2, 6))


class Door:
    def __init__(self) -> None:
        self.sockets = 0
        self.handshakes = 0
        self.requests = 0
        self.sends = Pressure()  # from when a message was read to its answer
        self.lag_s = 0.0
        self._turn = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

    def refusal(self, *, draining: bool) -> Refusal | None:
        """Why one more WebSocket cannot come in just now, if so."""
        reasons = {
            "draining": draining,
            "handshakes": self.handshakes >= MAX_HANDSHAKES,
            "lag": self.lag_s > MAX_LAG_S,
            "full": self.sockets + self.handshakes >= settings.CHAT_SOCKETS_PER_NODE,
        }
        reason = next((reason for reason, holds in reasons.items() if holds), None)
        return None if reason is None else later(reason)

    @asynccontextmanager
    async def handshake(self) -> AsyncIterator[None]:
        """
        To be identified in: of a crowd that comes back at once so many at a time, in the order they came.

        Raises TimeoutError after too long a wait.
        """
        self.handshakes += 1
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await self._turn.acquire()
            try:
                yield
            finally:
                self._turn.release()
        finally:
            self.handshakes -= 1

    @contextmanager
    def request(self) -> Iterator[bool]:
        """Whether one more HTTP request may be worked on; while it is, it counts."""
        may_enter = self.requests < MAX_REQUESTS
        self.requests += may_enter
        try:
            yield may_enter
        finally:
            self.requests -= may_enter

    async def measure_lag(self) -> None:
        """How late the event loop gets to what is due: a second of it is a second that everyone here waits."""
        while True:
            due = time.monotonic() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self.lag_s += (time.monotonic() - due - self.lag_s) / 5  # smoothed over half a second or so
            metrics.loop_lag.set(self.lag_s)


door = per_loop(Door)


async def refusal(scope: Mapping[str, Any], *, draining: bool) -> Refusal | None:
    """Why this handshake is not to go on, if so."""
    if (at_the_door := door().refusal(draining=draining)) is not None:
        return at_the_door
    address = address_of(scope, settings.TRUSTED_PROXIES)
    if is_this_machine(address):
        return None
    try:
        await throttle.take(throttle.connects(), address)
    except RateLimited as error:
        return Refusal(429, 4429, "address", -(-(error.retry_after_ms or 0) // 1000))
    return None

"""
Pushes to their providers, and what each answer means for the ledger, the device and whoever is on call.

All batches of a worker process share its senders: threads that wait for providers and do nothing else, so that whoever
waits for Apple holds no connection to the database. Each platform has its own, so that one that is slow keeps none from
the others. A batch writes down what has been answered so far, again and again,
until all of it is; what the database does not take now goes with the next, as long as no other worker may have it.
"""

import logging
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from queue import Empty, SimpleQueue

import msgspec
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connection
from django.utils import timezone

from apps import failpoints
from apps.push import ledger, metrics
from apps.push.ledger import Attempt, Settlement
from apps.push.models import Device
from apps.push.notification import Push
from apps.push.providers import provider_for
from apps.push.providers.base import Outcome, Result

logger = logging.getLogger(__name__)

SENDERS = 64  # for each platform; a thread is only started when there is work for it
SETTLE_WITHIN_S = 0.1  # how long an answer waits for those of its batch, to be written down with them
SETTLE_AGAIN_S = 1.0  # after the database could not

# What waits in there is bounded by the tasks under way, which wait for it.
_senders = {
    platform: ThreadPoolExecutor(SENDERS, thread_name_prefix=f"{platform}-sender")
    for platform in Device.Platform.values
}


class Answer(msgspec.Struct, frozen=True):
    attempt: Attempt
    provider: str
    result: Result | None  # None: nobody asked the provider, as it was too late for that


def send(pushes: Collection[tuple[Attempt, Push]], settled: Collection[Settlement] = ()) -> None:
    """
    Returns when each of these has been answered and that is written down, with what is settled already.

    They are claimed, and have a device. What could not be written down until their claim ends is due again.
    """
    batch, unwritten = _Batch(pushes), list(settled)
    while (answers := batch.answers()) or unwritten:
        now = timezone.now()
        unwritten = _write_down([*unwritten, *(_settlement(answer, now) for answer in answers)])
        for answer in answers:
            if answer.result is not None:
                _forget_if_dead(answer.attempt, answer.result)
                _tell(answer.attempt, answer.provider, answer.result)


class _Batch:
    def __init__(self, pushes: Collection[tuple[Attempt, Push]]) -> None:
        self._late_at = timezone.now() + ledger.MAY_WAIT  # so long the senders' other work may keep them from these
        self._left = len(pushes)  # that `answers` has not returned
        self._under_way = len(pushes)
        self._lock = threading.Lock()
        self._all_here = threading.Event()
        self._arrived: SimpleQueue[Answer | None] = SimpleQueue()
        for attempt, push in pushes:
            _senders[attempt.platform].submit(self._send, attempt, push)

    def answers(self) -> list[Answer]:
        """Those that have come since the last call; none when there are no more. Waits for some."""
        while self._left:
            self._all_here.wait(SETTLE_WITHIN_S)
            arrived = _drained(self._arrived)
            self._left -= len(arrived)
            if answers := [answer for answer in arrived if answer is not None]:
                return answers
        return []

    def _send(self, attempt: Attempt, push: Push) -> None:
        answer = None
        try:
            is_late = attempt.is_late(now := timezone.now()) or now > self._late_at
            answer = Answer(attempt, "", None) if is_late else _answer(attempt, push)
        except Exception:  # the outermost loop of a sender: a bug is this push's alone, which is due again in a minute
            logger.exception("a push broke off", extra={"push_id": str(attempt.id)})
        finally:
            self._arrived.put(answer)
            with self._lock:
                self._under_way -= 1
                if not self._under_way:
                    self._all_here.set()


def _drained(queue: SimpleQueue[Answer | None]) -> list[Answer | None]:
    found = []
    while True:
        try:
            found.append(queue.get_nowait())
        except Empty:
            return found


def _answer(attempt: Attempt, push: Push) -> Answer:
    """The provider's name and answer. One that can't even be made is one that a human has to mend."""
    failpoints.reached("pushing")
    try:
        provider = provider_for(attempt.platform)
    except ImproperlyConfigured as error:
        return Answer(attempt, attempt.platform, Result(Outcome.MISCONFIGURED, error=str(error)))
    started = time.perf_counter()
    result = provider.send(attempt.token or "", push)
    metrics.seconds.labels(provider.name).observe(time.perf_counter() - started)
    failpoints.reached("pushed")
    return Answer(attempt, provider.name, result)


def _settlement(answer: Answer, now: datetime) -> Settlement:
    if answer.result is None:
        return ledger.released(answer.attempt, "no sender was free in time", now)
    return ledger.answered(answer.attempt, answer.provider, answer.result, now)


def _write_down(settlements: list[Settlement]) -> list[Settlement]:
    """Those that are still to be written down, as the database could not and no other worker may have them yet."""
    try:
        ledger.settle(settlements)
    except Error as error:
        logger.warning("pushes wait to be settled: %s", error, extra={"pushes": len(settlements)})
    else:
        failpoints.reached("push-settled")
        return []
    connection.close_if_unusable_or_obsolete()
    time.sleep(SETTLE_AGAIN_S)
    kept = [one for one in settlements if not one.attempt.is_nearly_lost(timezone.now())]
    if len(kept) < len(settlements):
        logger.error("pushes could not be settled and go again", extra={"pushes": len(settlements) - len(kept)})
    return kept


def _forget_if_dead(attempt: Attempt, result: Result) -> None:
    if result.outcome is not Outcome.UNREGISTERED:
        return
    try:
        ledger.forget_device(attempt, result)
    except Error as error:  # its next push is answered the same
        logger.warning("a dead device stays: %s", error, extra={"device": str(attempt.device_id)})


def _tell(attempt: Attempt, provider: str, result: Result) -> None:
    metrics.answers.labels(provider, result.outcome).inc()
    misconfigured = result.outcome is Outcome.MISCONFIGURED
    if misconfigured or result.outcome is Outcome.ACCEPTED:
        metrics.misconfigured.labels(provider).set(misconfigured)
    if misconfigured:
        logger.error("pushes wait for settings or credentials", extra={"provider": provider, "error": result.error})
    logger.info(
        "push",
        extra={
            "push_id": str(attempt.id),
            "kind": attempt.kind,
            "username": attempt.username,
            "device": str(attempt.device_id),
            "conversation_id": str(attempt.conversation_id),
            "seq": attempt.seq,
            "provider": provider,
            "outcome": result.outcome,
            "attempt": attempt.number,
            "error": result.error,
        },
    )

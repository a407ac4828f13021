"""One push to its provider, and what the provider's answer means for the ledger, the device and whoever is on call."""

import logging
import time

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from apps import failpoints
from apps.push import ledger, metrics
from apps.push.models import PushRecord
from apps.push.notification import Push
from apps.push.providers import provider_for
from apps.push.providers.base import Outcome, Result

logger = logging.getLogger(__name__)


def send(record: PushRecord, push: Push) -> None:
    """`record` is claimed by this worker, and has a device."""
    assert record.device is not None
    failpoints.reached("pushing")
    name, result = _answer(record.platform, record.device.token, push)
    failpoints.reached("pushed")
    ledger.settle(record, name, result, timezone.now())
    failpoints.reached("push-settled")
    misconfigured = result.outcome is Outcome.MISCONFIGURED
    if misconfigured or result.outcome is Outcome.ACCEPTED:
        metrics.misconfigured.labels(name).set(misconfigured)
    if misconfigured:
        logger.error("pushes wait for settings or credentials", extra={"provider": name, "error": result.error})
    logger.info(
        "push",
        extra={
            "push_id": str(record.id),
            "kind": record.kind,
            "username": record.user.username,
            "device": str(record.device.id),
            "conversation_id": str(record.conversation_id),
            "seq": record.seq,
            "provider": name,
            "outcome": result.outcome,
            "attempt": record.attempts,
            "error": result.error,
        },
    )


def _answer(platform: str, token: str, push: Push) -> tuple[str, Result]:
    """The provider's name and answer. One that can't even be made is one that a human has to mend."""
    try:
        provider = provider_for(platform)
    except ImproperlyConfigured as error:
        return platform, Result(Outcome.MISCONFIGURED, error=str(error))
    started = time.perf_counter()
    result = provider.send(token, push)
    metrics.seconds.labels(provider.name).observe(time.perf_counter() - started)
    return provider.name, result

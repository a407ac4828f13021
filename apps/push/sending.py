"""One push to its provider, and what the provider's answer means for the ledger, the device and whoever is on call."""

import logging
import time

from django.utils import timezone

from apps import failpoints
from apps.push import ledger, metrics
from apps.push.models import PushRecord
from apps.push.notification import Push
from apps.push.providers import provider_for
from apps.push.providers.base import Outcome

logger = logging.getLogger(__name__)


def send(record: PushRecord, push: Push) -> None:
    """`record` is claimed by this worker, and has a device."""
    assert record.device is not None
    provider = provider_for(record.platform)
    started = time.perf_counter()
    failpoints.reached("pushing")
    result = provider.send(record.device.token, push)
    failpoints.reached("pushed")
    metrics.seconds.labels(provider.name).observe(time.perf_counter() - started)
    ledger.settle(record, provider.name, result, timezone.now())
    failpoints.reached("push-settled")
    misconfigured = result.outcome is Outcome.MISCONFIGURED
    if misconfigured or result.outcome is Outcome.ACCEPTED:
        metrics.misconfigured.labels(provider.name).set(misconfigured)
    if misconfigured:
        logger.error("the provider refuses our credentials: pushes wait", extra={"provider": provider.name})
    logger.info(
        "push",
        extra={
            "push_id": str(record.id),
            "kind": record.kind,
            "username": record.user.username,
            "device": str(record.device.id),
            "conversation_id": str(record.conversation_id),
            "seq": record.seq,
            "provider": provider.name,
            "outcome": result.outcome,
            "attempt": record.attempts,
            "error": result.error,
        },
    )

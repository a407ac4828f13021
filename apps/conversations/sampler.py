"""
A node audits its own work: now and then, the newest part of a conversation that had a message through it lately.

It costs some dozens of reads a minute, and nothing while the history is busy. What it finds is a bug, or somebody has
changed the rows by hand: an error in the log, with ids and numbers, and a metric to alert on.
"""

import asyncio
import logging
import random
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from apps.accounts.aio import per_loop
from apps.conversations import audit, history
from apps.conversations.errors import Unavailable
from apps.conversations.history.audit import Finding
from apps.presence import metrics, node

logger = logging.getLogger(__name__)

RECENT = timedelta(hours=1)


@per_loop
def running() -> "asyncio.Task[None]":
    return asyncio.create_task(_sample_forever())


async def _sample_forever() -> None:
    while settings.CHAT_AUDIT_INTERVAL:
        await asyncio.sleep(settings.CHAT_AUDIT_INTERVAL * random.uniform(0.5, 1.5))
        try:
            await sample()
        except Unavailable as error:
            logger.info("no audit, as the history has no time for it: %s", error.detail)
        except Exception:  # the outermost loop of this duty
            logger.exception("an audit failed")


async def sample() -> None:
    """Audit one recent conversation. Raises Unavailable."""
    since = timezone.now() - RECENT
    if not (recent := node.current().registry.recent.lately(since.timestamp())):
        return
    log = await history.log()
    async for ((conversation_id, last_read_seq),) in audit.conversations(random.choice(recent)):
        async for part in audit.audit(log, conversation_id, last_read_seq, since):
            metrics.audited.inc(part.messages)
            _tell(part.findings)


def _tell(findings: Iterable[Finding]) -> None:
    for finding in findings:
        metrics.audit_violations.inc()
        logger.error("the audit found: %s", finding, extra={"kind": finding.kind})

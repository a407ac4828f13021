"""The provider of the one-command run: a push is a line in the worker's log. Content never goes to a log."""

import logging

from apps.push.notification import Push
from apps.push.providers.base import Outcome, Result

logger = logging.getLogger(__name__)


class Console:
    name = "console"

    def send(self, token: str, push: Push) -> Result:
        logger.info(
            "console push",
            extra={
                "push_id": str(push.push_id),
                "kind": push.kind,
                "conversation_id": str(push.conversation_id),
                "seq": push.seq,
                "badge": push.badge,
                "count": push.count,
            },
        )
        return Result(Outcome.ACCEPTED, provider_id=str(push.push_id))

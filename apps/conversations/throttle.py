"""How fast one person may send, counted on the node they are connected to."""

import time
from functools import cache
from uuid import UUID

from django.conf import settings
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from apps.conversations.errors import RateLimited

WINDOW_S = 10


@cache
def _limiter() -> MovingWindowRateLimiter:
    return MovingWindowRateLimiter(MemoryStorage())


def take(user_id: UUID) -> None:
    """Count one message of this user. Raises RateLimited, which says when the next one may come."""
    if settings.CHAT_SENDS_PER_10S == 0:
        return
    limit = RateLimitItemPerSecond(settings.CHAT_SENDS_PER_10S, WINDOW_S, namespace="sends")
    if not _limiter().hit(limit, str(user_id)):
        reset_at = _limiter().get_window_stats(limit, str(user_id)).reset_time
        wait_ms = max(100, int((reset_at - time.time()) * 1000))
        raise RateLimited("You are sending too fast.", retry_after_ms=wait_ms)

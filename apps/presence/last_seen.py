"""When a person was last here: kept in SQL, as Redis forgets."""

import logging
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.db import DatabaseError
from django.utils import timezone

from apps.accounts.aio import in_db
from apps.accounts.models import User
from apps.presence.frames import rfc3339

logger = logging.getLogger(__name__)


async def note(users: Collection[str]) -> None:
    """These users have just left."""
    if not users:
        return
    try:
        await in_db(User.objects.filter(id__in=users).update, last_seen_at=timezone.now())
    except DatabaseError as error:
        logger.warning("last seen was not kept: %s", error)


async def of(users: Collection[str]) -> dict[str, str]:
    """RFC 3339 with milliseconds, for those who have been here. Nobody, where the database is away."""
    try:
        rows = await in_db(_rows, [UUID(user) for user in users])
    except DatabaseError as error:
        logger.warning("last seen could not be read: %s", error)
        return {}
    return {str(user_id): rfc3339(seen) for user_id, seen in rows}


def _rows(user_ids: list[UUID]) -> list[tuple[UUID, datetime]]:
    return list(User.objects.filter(id__in=user_ids, last_seen_at__isnull=False).values_list("id", "last_seen_at"))

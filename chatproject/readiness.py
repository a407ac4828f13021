"""`/readyz`: may this node be sent people? 503 while one of its parts does not answer, and while it drains."""

import asyncio
from collections.abc import Awaitable

from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from apps.accounts.aio import in_db
from apps.conversations.errors import Unavailable
from apps.conversations.history import log
from apps.presence import node

TIMEOUT_S = 2.0


@require_GET
async def readyz(request: HttpRequest) -> JsonResponse:
    this = node.current()
    database, history = await asyncio.gather(_answers(in_db(_select_1)), _answers(_ping_history()))
    parts = {
        "database": database,
        "history": history,
        "redis": this.exchange.hears_itself,
        "accepting": not this.draining,
    }
    ready = all(parts.values())
    return JsonResponse({"ready": ready, "node": this.name, "parts": parts}, status=200 if ready else 503)


async def _answers(question: Awaitable[None]) -> bool:
    try:
        await asyncio.wait_for(question, TIMEOUT_S)
    except (TimeoutError, DatabaseError, Unavailable):
        return False
    return True


async def _ping_history() -> None:
    await (await log()).ping()


def _select_1() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")

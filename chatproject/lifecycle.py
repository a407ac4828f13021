"""What a chat process does when it starts and before it ends, whichever ASGI server runs it."""

import gc
import logging

from django.conf import settings
from prometheus_client import start_http_server

from apps.conversations import consumers, delivery, history
from apps.conversations.errors import Unavailable
from apps.presence import node

logger = logging.getLogger(__name__)

FINISH_S = 2


async def start() -> None:
    try:
        await history.log()
    except Unavailable as error:
        logger.warning("the history store does not answer yet: %s", error)  # the next use tries again
    if settings.METRICS_PORT:
        start_http_server(settings.METRICS_PORT, addr="127.0.0.1")
    this = node.current()
    delivery.attach(this)
    await this.start()
    # What is loaded now stays: full collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def stop() -> None:
    await consumers.finish(FINISH_S)
    await node.current().stop()
    await history.close()

"""What a chat process does when it starts and before it ends, whichever ASGI server runs it."""

import asyncio
import faulthandler
import gc
import logging
import resource
import signal

from django.conf import settings
from prometheus_client import start_http_server

from apps.accounts.aio import per_loop
from apps.conversations import admission, consumers, delivery, history, sampler, throttle
from apps.conversations.errors import Unavailable
from apps.presence import node

logger = logging.getLogger(__name__)

FINISH_S = 2
FILES_BESIDES_SOCKETS = 200


@per_loop
def _lag() -> "asyncio.Task[None]":
    return asyncio.create_task(admission.door().measure_lag())


async def start() -> None:
    faulthandler.register(signal.SIGUSR1)  # writes where each thread is, as it does with Celery's workers
    try:
        await history.log()
    except Unavailable as error:
        logger.warning("the history store does not answer yet: %s", error)  # the next use tries again
    if settings.METRICS_PORT:
        start_http_server(settings.METRICS_PORT, addr="127.0.0.1")
    _allow_files()
    throttle.start()
    this = node.current()
    delivery.attach(this)
    await this.start()
    _lag()
    sampler.running()
    # What is loaded now stays: full collections need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _allow_files() -> None:
    """Each socket is an open file, and many systems allow 1,024 where nobody asks for more."""
    wanted = settings.CHAT_SOCKETS_PER_NODE + FILES_BESIDES_SOCKETS
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        logger.warning("only %d files may be open, CHAT_SOCKETS_PER_NODE needs %d", most, wanted)
        wanted = most
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


async def stop() -> None:
    _lag().cancel()
    sampler.running().cancel()
    await consumers.finish(FINISH_S)
    await node.current().stop()
    await history.close()
    await throttle.close()

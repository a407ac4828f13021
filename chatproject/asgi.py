"""The ASGI application: HTTP to Django, WebSockets to the chat. Any ASGI server can run it; ours is server.py."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import django
from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings.base")
django.setup()

from apps.conversations.admission import door  # noqa: E402  (needs the app registry)
from apps.conversations.consumers import ChatConsumer  # noqa: E402
from apps.conversations.problems import overloaded  # noqa: E402
from chatproject import lifecycle  # noqa: E402

Receive = Callable[[], Awaitable[dict[str, Any]]]
Reply = Callable[[dict[str, Any]], Awaitable[None]]

_chat = ChatConsumer.as_asgi()
_django = get_asgi_application()


async def http(scope: dict[str, Any], receive: Receive, send: Reply) -> None:
    with door().request() as may_enter:
        if may_enter or scope["path"] in ("/healthz", "/readyz"):
            await _django(scope, receive, send)
        else:
            await overloaded(scope, send)


async def websocket(scope: dict[str, Any], receive: Receive, send: Reply) -> None:
    if scope["path"] == "/ws/v1/":
        await _chat(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.close"})


async def lifespan(scope: dict[str, Any], receive: Receive, send: Reply) -> None:
    """For servers that have it; Daphne does not, so server.py calls the same two functions itself."""
    await receive()
    await lifecycle.start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await lifecycle.stop()
    await send({"type": "lifespan.shutdown.complete"})


application = ProtocolTypeRouter({"http": http, "websocket": websocket, "lifespan": lifespan})

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.load.baseline.settings")
django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (models come after setup)
from django.urls import path  # noqa: E402

from tests.load.baseline.consumers import ChatConsumer  # noqa: E402

urlpatterns: list[object] = []
application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/<str:conversation>/", ChatConsumer.as_asgi())])})

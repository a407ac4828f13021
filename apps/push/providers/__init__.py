"""Who carries a push to a device of each platform, by the settings."""

import threading
from functools import cache

from django.conf import settings
from django.utils.module_loading import import_string

from apps.push.providers.base import Provider
from apps.push.providers.breaker import Guarded

_one_at_a_time = threading.Lock()


def provider_for(platform: str) -> Provider:
    """Made when it is first asked for, so that no chat node loads one. Raises ImproperlyConfigured."""
    with _one_at_a_time:  # a cache alone lets two threads that come first make one each
        return made(platform)


@cache
def made(platform: str) -> Provider:
    provider: Provider = import_string(settings.PUSH_PROVIDERS[platform])()
    # On the web each device names its own push service: one of them that fails must not keep us from the others.
    return provider if platform == "web" else Guarded(provider)

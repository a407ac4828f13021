"""Settings of the test suite: fast passwords, no Redis for what only caches, static files without a manifest."""

import os
import tempfile

# Before the settings are read: what a run in ./data has written there is not for the tests, nor for what they start.
os.environ["DATA"] = tempfile.mkdtemp(prefix="chat-test-")

from .base import *  # noqa: F403
from .base import DATA, DATABASES, STORAGES

SECRET_KEY = "only for tests"  # noqa: S105
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
STORAGES = STORAGES | {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
(DATA / "static").mkdir()
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file and not memory: the pool of SQL threads opens connections of its own.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA / "test.sqlite3")}

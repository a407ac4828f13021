"""DATABASE_URL and REDIS_URL come from the environment."""

import environ

env = environ.Env()

SECRET_KEY = "only measured, never deployed"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["channels", "tests.load.baseline"]
ROOT_URLCONF = "tests.load.baseline.asgi"
ASGI_APPLICATION = "tests.load.baseline.asgi.application"
DATABASES = {"default": {**env.db("DATABASE_URL"), "CONN_MAX_AGE": 600}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # redis-py would end the layer's blocking reads after 5 s, and all consumers with them
        "CONFIG": {"hosts": [{"address": env.str("REDIS_URL"), "socket_timeout": None}]},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

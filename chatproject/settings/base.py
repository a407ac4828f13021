"""
Settings, read from the environment and checked once, here.

Order: the process environment, then $DATA/services/services.env (STACK=full), then $DATA/chat.env, which the supervisor
writes at its first start. Every setting is listed with its default in docs/configuration.md.
"""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from chatproject import logs

BASE_DIR = Path(__file__).resolve().parent.parent.parent

env = environ.Env()


def whole(name: str, default: int, lowest: int, highest: int = 2**31 - 1) -> int:
    text = env.str(name, default=str(default))
    if not re.fullmatch(r"\d{1,10}", text) or not lowest <= int(text) <= highest:
        raise ImproperlyConfigured(f"{name} is {text!r}; it must be a whole number from {lowest} to {highest}")
    return int(text)


def yes_or_no(name: str, default: bool) -> bool:
    text = env.str(name, default=str(default)).strip().lower()
    if text not in ("1", "true", "yes", "on", "0", "false", "no", "off", ""):
        raise ImproperlyConfigured(f"{name} is {text!r}; it must be yes or no")
    return text in ("1", "true", "yes", "on")


def all_or_none(needed: tuple[str, ...], optional: tuple[str, ...]) -> bool:
    """Whether what belongs together is set."""
    missing = [name for name in needed if not env.str(name, default="")]
    if any(env.str(name, default="") for name in (*needed, *optional)) and missing:
        raise ImproperlyConfigured(f"{' and '.join(missing)} is missing, of {', '.join((*needed, *optional))}")
    return not missing


DATA = Path(env.str("DATA", default=str(BASE_DIR / "data"))).resolve()
STACK = env.str("STACK", default="embedded")
if STACK not in ("embedded", "full"):
    raise ImproperlyConfigured(f"STACK is {STACK!r}; it must be 'embedded' or 'full'")
if STACK == "full":
    environ.Env.read_env(DATA / "services" / "services.env")
environ.Env.read_env(DATA / "chat.env")

PORT = whole("PORT", 8000, 1, 65_535)
PRODUCTION = False  # settings.production says otherwise
DEBUG = yes_or_no("DEBUG", False)
SECRET_KEY = env.str("SECRET_KEY", default="")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
# Full origins (scheme, host, port) of our own pages: WebSocket handshakes and form posts are held against them.
CHAT_ORIGINS = env.list(
    "CHAT_ORIGINS", default=[f"http://{host}:{PORT}" for host in ("localhost", "127.0.0.1", "[::1]")]
)
for origin in CHAT_ORIGINS:
    if not re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", origin):
        raise ImproperlyConfigured(
            f"CHAT_ORIGINS has {origin!r}; an origin is https://host or https://host:port in lower case, without a path"
        )
CSRF_TRUSTED_ORIGINS = CHAT_ORIGINS
# How many proxies of ours stand in front and append to X-Forwarded-For; 0: that header is anybody's.
TRUSTED_PROXIES = whole("TRUSTED_PROXIES", 0, 0, 10)
ALLAUTH_TRUSTED_PROXY_COUNT = TRUSTED_PROXIES

# --- the chat itself -------------------------------------------------------------------------------------------------
NODE_ID = env.str("NODE_ID", default="node")
CHAT_SENDS_PER_10S = whole("CHAT_SENDS_PER_10S", 100, 0)  # 0: no limit
CHAT_CONNECTS_PER_10S = whole("CHAT_CONNECTS_PER_10S", 1_000, 0)  # from one address; 0: no limit
CHAT_AUDIT_INTERVAL = whole("CHAT_AUDIT_INTERVAL", 60, 0)  # seconds between the audits of a node; 0: none
CHAT_SOCKETS_PER_USER = whole("CHAT_SOCKETS_PER_USER", 20, 1)
CHAT_SOCKETS_PER_NODE = whole("CHAT_SOCKETS_PER_NODE", 10_000, 1)
CHAT_REGISTRATION_OPEN = yes_or_no("CHAT_REGISTRATION_OPEN", True)

# --- push ------------------------------------------------------------------------------------------------------------
PUSH_CONTENT = env.str("PUSH_CONTENT", default="full")
if PUSH_CONTENT not in ("full", "sender", "none"):
    raise ImproperlyConfigured(f"PUSH_CONTENT is {PUSH_CONTENT!r}; it must be 'full', 'sender' or 'none'")
PUSH_AWAY_AFTER = whole("PUSH_AWAY_AFTER", 120, 20)  # seconds without use of any client, after which one gets pushes
FCM_SERVICE_ACCOUNT_FILE = env.str("FCM_SERVICE_ACCOUNT_FILE", default="")
FCM_ENDPOINT = env.str("FCM_ENDPOINT", default="https://fcm.googleapis.com/v1/projects")
FCM_TOKEN_URI = env.str("FCM_TOKEN_URI", default="")  # empty: what the service account's file says
APNS_KEY_FILE = env.str("APNS_KEY_FILE", default="")
APNS_KEY_ID = env.str("APNS_KEY_ID", default="")
APNS_TEAM_ID = env.str("APNS_TEAM_ID", default="")
APNS_TOPIC = env.str("APNS_TOPIC", default="")
APNS_HOST = env.str("APNS_HOST", default="api.push.apple.com")
APNS_PORT = whole("APNS_PORT", 443, 1, 65_535)
APNS_CA_FILE = env.str("APNS_CA_FILE", default="")  # empty: the authorities that Python trusts
# Browsers: the supervisor makes a key. Push services reach us at the contact.
WEBPUSH_PRIVATE_KEY = env.str("WEBPUSH_PRIVATE_KEY", default="")
_https = [origin for origin in CHAT_ORIGINS if origin.startswith("https://")]
WEBPUSH_CONTACT = env.str("WEBPUSH_CONTACT", default="") or [*_https, "mailto:chat@localhost"][0]
if not re.fullmatch(r"mailto:[^@\s]+@[^@\s]+|https://\S+", WEBPUSH_CONTACT):
    raise ImproperlyConfigured(f"WEBPUSH_CONTACT is {WEBPUSH_CONTACT!r}; it must be mailto:… or https://…")
WEBPUSH_CA_FILE = env.str("WEBPUSH_CA_FILE", default="")  # whom to trust instead of the public authorities
WEBPUSH_ALLOW_PRIVATE = yes_or_no("WEBPUSH_ALLOW_PRIVATE", False)  # push services in a closed network, and on any port
# Who carries a push, by the platform of the device; a provider without credentials is a line in the worker's log.
PUSH_PROVIDERS = dict.fromkeys(("fcm", "apns", "web"), "apps.push.providers.console.Console")
if all_or_none(("FCM_SERVICE_ACCOUNT_FILE",), ("FCM_ENDPOINT", "FCM_TOKEN_URI")):
    PUSH_PROVIDERS["fcm"] = "apps.push.providers.fcm.Fcm"
if all_or_none(
    ("APNS_KEY_FILE", "APNS_KEY_ID", "APNS_TEAM_ID", "APNS_TOPIC"), ("APNS_HOST", "APNS_PORT", "APNS_CA_FILE")
):
    PUSH_PROVIDERS["apns"] = "apps.push.providers.apns.Apns"
if all_or_none(("WEBPUSH_PRIVATE_KEY",), ("WEBPUSH_CONTACT", "WEBPUSH_CA_FILE", "WEBPUSH_ALLOW_PRIVATE")):
    PUSH_PROVIDERS["web"] = "apps.push.providers.webpush.WebPush"

# --- stores ----------------------------------------------------------------------------------------------------------
REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
BROKER_URL = env.str("BROKER_URL", default=REDIS_URL)
CASSANDRA_URL = env.str("CASSANDRA_URL", default="")  # cassandra://host[,host]:port/keyspace; empty: SQLite
HISTORY_PATH = DATA / "history.sqlite3"

DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{DATA / 'chat.sqlite3'}")}
if DATABASES["default"]["ENGINE"].endswith("postgresql"):
    # A pool, as CONN_MAX_AGE would leak a connection per thread under ASGI.
    DATABASES["default"] |= {
        "ENGINE": "chatproject.postgresql",
        "CONN_MAX_AGE": 0,
        # Left alone, the pool tries a server that is away after 1, 2, 4, 8 … seconds, and is as late when it is back.
        "OPTIONS": {
            "connect_timeout": 2,
            "tcp_user_timeout": 5_000,  # ms; for a machine that went away without a word
            "pool": {
                "min_size": 2,
                "max_size": whole("DATABASE_POOL", 10, 2, 500),
                "timeout": 5,
                "reconnect_timeout": 2,
            },
        },
    }
else:
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }
if CASSANDRA_URL:  # for `manage.py sync_cassandra` alone: the chat has a connection of its own, in history/
    _cassandra = urlsplit(CASSANDRA_URL)
    DATABASES["cassandra"] = {
        "ENGINE": "django_cassandra_engine",
        "NAME": _cassandra.path.strip("/"),
        "HOST": _cassandra.hostname or "127.0.0.1",
        "USER": unquote(_cassandra.username or ""),
        "PASSWORD": unquote(_cassandra.password or ""),
        "OPTIONS": {
            # e.g. {"strategy_class": "NetworkTopologyStrategy", "datacenter1": 3}
            "replication": env.json("CASSANDRA_REPLICATION", default={"strategy_class": "SimpleStrategy"}),
            # lazy: or every command would need Cassandra
            "connection": {"lazy_connect": True, "retry_connect": True, "port": _cassandra.port or 9042},
        },
    }
    DATABASE_ROUTERS = ["apps.conversations.history.router.OnlyTheDefaultDatabase"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {"default": {"BACKEND": "apps.presence.bus.ChannelLayer", "CONFIG": {"url": REDIS_URL}}}

METRICS_PORT = whole("METRICS_PORT", 0, 0, 65535)  # this node's own port for Prometheus, on 127.0.0.1; 0: none

LOGGING = logs.LOGGING

# --- applications ----------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "apps.accounts",
    "apps.presence",
    "apps.push",
    "apps.conversations",
    "chatproject.apps.ChatAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.usersessions",
    "channels",
    "csp",
    "django_structlog",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "drf_standardized_errors",
    "rest_framework",
]
if CASSANDRA_URL:
    INSTALLED_APPS += ["apps.conversations.history", "django_cassandra_engine"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "apps.accounts.middleware.SessionActivityMiddleware",
    "chatproject.outage.OutageMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
]
ROOT_URLCONF = "chatproject.urls"
ASGI_APPLICATION = "chatproject.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# --- accounts --------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
SESSION_ENGINE = "apps.accounts.sessions"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
ACCOUNT_FORMS = {"signup": "apps.accounts.forms.SignupForm"}
ACCOUNT_ADAPTER = "apps.accounts.adapter.AccountAdapter"
ACCOUNT_USER_MODEL_EMAIL_FIELD = "email"
ACCOUNT_USERNAME_VALIDATORS = "apps.accounts.adapter.USERNAME_VALIDATORS"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
# allauth's own limits, but for a school behind one address
ACCOUNT_RATE_LIMITS = {"login": "120/m/ip", "signup": "120/m/ip"}
ACCOUNT_LOGOUT_ON_GET = False
# "strict": signing up with an address that someone has does not say so; the address proves nothing until it is verified
ACCOUNT_PREVENT_ENUMERATION = "strict"
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
ACCOUNT_CHANGE_EMAIL = True  # one address, which stays until the new one is verified
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_PRESERVE_USERNAME_CASING = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}
if env.str("EMAIL_URL", default=""):  # smtp+tls://user:password@host:587
    vars().update(env.email_url("EMAIL_URL"))
else:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = DATA / "mail"
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="chat@localhost")

# --- pages -----------------------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATIC_ROOT = DATA / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "chatproject.staticfiles.ModuleManifestStorage"},
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        # Older browsers do not count WebSockets as 'self'. An IPv6 address can't be written here.
        "connect-src": ["'self'", *(origin.replace("http", "ws", 1) for origin in CHAT_ORIGINS if "[" not in origin)],
        "manifest-src": ["'self'"],
        "worker-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

# --- REST ------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "apps.accounts.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
}
DRF_STANDARDIZED_ERRORS = {
    "EXCEPTION_HANDLER_CLASS": "apps.conversations.problems.ProblemHandler",
    "EXCEPTION_FORMATTER_CLASS": "apps.conversations.problems.ProblemFormatter",
    "ENABLE_IN_DEBUG_FOR_UNHANDLED_EXCEPTIONS": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Chat",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "POSTPROCESSING_HOOKS": ["apps.conversations.api.schema.add_components"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

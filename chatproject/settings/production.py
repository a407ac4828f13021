"""
The same settings behind HTTPS, which refuse to start with what would be unsafe there.

Needed: SECRET_KEY (50 characters or more), ALLOWED_HOSTS and CHAT_ORIGINS (https://…), each named in full.
"""

from django.core.exceptions import ImproperlyConfigured

from .base import *  # noqa: F403
from .base import ALLOWED_HOSTS, CHAT_ORIGINS, DEBUG, SECRET_KEY, TRUSTED_PROXIES, env, whole

PRODUCTION = True


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ImproperlyConfigured(f"Production: {what}")


_require(not DEBUG, "DEBUG must be off")
_require(bool(SECRET_KEY), "SECRET_KEY is missing")
_require(len(SECRET_KEY) >= 50 and len(set(SECRET_KEY)) >= 5, "SECRET_KEY must be 50 random characters or more")
_require("ALLOWED_HOSTS" in env.ENVIRON and bool(ALLOWED_HOSTS), "ALLOWED_HOSTS is missing")
for _host in ALLOWED_HOSTS:
    _require("*" not in _host and not _host.startswith("."), f"ALLOWED_HOSTS must name each host, not {_host!r}")
ALLOWED_HOSTS = [*ALLOWED_HOSTS, "localhost", "127.0.0.1"]  # health checks come from inside
_require("CHAT_ORIGINS" in env.ENVIRON and bool(CHAT_ORIGINS), "CHAT_ORIGINS is missing")
for _origin in CHAT_ORIGINS:
    _require(_origin.startswith("https://"), f"CHAT_ORIGINS must be https, not {_origin!r}")

# --- HTTPS only ------------------------------------------------------------------------------------------------------
SECURE_SSL_REDIRECT = True
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # asked inside, where there is no TLS
SECURE_HSTS_SECONDS = whole("HSTS_SECONDS", 31_536_000, 1)
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SILENCED_SYSTEM_CHECKS = ["security.W021"]  # preloading into browsers is for the owner of the domain to ask for
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https"

# "__Host-": no other host of the domain, and no plain HTTP page, can set or read them.
SESSION_COOKIE_NAME = "__Host-session"
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_NAME = "__Host-csrf"
CSRF_COOKIE_SECURE = True

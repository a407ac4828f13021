"""
One JSON object per line, from us and the libraries alike, with the ids to follow one request, connection or message.

What people write, and what lets them in, is never logged: no content, tokens, query strings or reset keys.
"""

import re
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

_RESET_KEY = re.compile(r"(/password/reset/key/)[^/?]+")
_QUERY = re.compile(r"\?.*")


def without_secrets(_: Any, __: str, event: EventDict) -> EventDict:
    """A request is logged by its path; the key of a password reset is in there. Celery logs what a task is given."""
    event.pop("data", None)
    request = event.get("request")
    if isinstance(request, str):
        event["request"] = _RESET_KEY.sub(r"\1…", _QUERY.sub("", request))
    return event


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    without_secrets,
]

structlog.configure(
    processors=[
        *_SHARED,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _SHARED,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # Django's own handlers would say everything twice; its line per request is django_structlog's, with ids.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.request": {"level": "ERROR"},
        "django.channels.server": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "hyper": {"level": "WARNING"},  # each frame of APNs that asks nothing of it
    },
}

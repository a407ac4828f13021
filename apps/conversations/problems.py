"""
Errors of the REST API as RFC 9457 problems: type, title, status, detail, code, and a pointer for each field.

`code` is that of errors.py, or DRF's own for what only HTTP knows (`not_authenticated`, `method_not_allowed`, ...).
"""

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import msgspec
from django.db import InterfaceError, OperationalError
from drf_standardized_errors.formatter import ExceptionFormatter
from drf_standardized_errors.handler import ExceptionHandler
from drf_standardized_errors.types import Error, ErrorResponse
from redis.exceptions import RedisError
from rest_framework import exceptions
from rest_framework.response import Response

from apps.conversations.errors import BadFrame, ChatError, Internal, Unavailable
from apps.presence import metrics

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
DEFAULT_WAIT_S = 1
WHOLE_REQUEST = ""  # as a JSON pointer


async def overloaded(scope: Mapping[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """An ASGI answer, for when Django is not to be asked."""
    metrics.overflows.labels("requests").inc()
    error = Unavailable("Too much is asked of this server just now; try again in a moment.")
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "errors": [{"pointer": WHOLE_REQUEST, "detail": error.detail}],
    }
    is_api = scope["path"].startswith("/api/")
    body = msgspec.json.encode(problem) if is_api else error.detail.encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode() if is_api else b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(random.randint(1, 4)).encode()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class ChatProblem(exceptions.APIException):
    """One of our own errors on its way out."""

    def __init__(self, error: ChatError) -> None:
        super().__init__(error.detail, error.code)
        self.status_code = error.status
        self.pointer = error.pointer
        if error.retry:
            self.wait = max(DEFAULT_WAIT_S, -(-(error.retry_after_ms or 0) // 1000))


class RegistrationClosed(exceptions.PermissionDenied):
    default_detail = "Nobody can sign up here by themselves."
    default_code = "registration_closed"


class ProblemHandler(ExceptionHandler):
    def convert_known_exceptions(self, exc: Exception) -> Exception:
        if isinstance(exc, OperationalError | InterfaceError | RedisError):
            logger.warning("a request found a store away: %s", exc)
            exc = Unavailable("A store did not answer; try again.", retry_after_ms=2_000)
        return ChatProblem(exc) if isinstance(exc, ChatError) else super().convert_known_exceptions(exc)

    def convert_unhandled_exceptions(self, exc: Exception) -> exceptions.APIException:
        if isinstance(exc, exceptions.APIException):
            return exc
        return ChatProblem(Internal(f"Something went wrong here (id {uuid4().hex[:12]})."))

    def report_exception(self, exc: exceptions.APIException, response: Response) -> None:
        """Log a bug with its traceback, under the id that the caller sees. A store that is away is none."""
        if exc.status_code != Unavailable.status:
            super().report_exception(exc, response)

    def get_response(self, exc: exceptions.APIException, data: Any) -> Response:
        response = super().get_response(exc, data)
        response.content_type = MEDIA_TYPE
        response["Cache-Control"] = "no-store"
        return response


class ProblemFormatter(ExceptionFormatter):
    """`errors` always says where: a field of the body, a parameter, or the request as a whole."""

    def get_errors(self) -> list[Error]:
        if isinstance(self.exc, ChatProblem):
            return [Error(self.exc.get_codes(), str(self.exc.detail), self.exc.pointer)]
        errors: list[Error] = super().get_errors()
        return errors

    def format_error_response(self, error_response: ErrorResponse) -> dict[str, Any]:
        first = error_response.errors[0]
        malformed = isinstance(self.exc, exceptions.ValidationError | exceptions.ParseError)
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.exc.status_code).phrase,
            "status": self.exc.status_code,
            "detail": first.detail if len(error_response.errors) == 1 else "Several fields are not valid.",
            "code": BadFrame.code if malformed else first.code,
            "errors": [{"pointer": _pointer(error.attr), "detail": error.detail} for error in error_response.errors],
        }


def _pointer(attr: str | None) -> str:
    """A JSON pointer from one of ours, or from DRF's `members.2`."""
    if attr is None or attr == "non_field_errors":
        return WHOLE_REQUEST
    return attr if attr.startswith("/") else "/" + attr.replace("~", "~0").replace("/", "~1").replace(".", "/")

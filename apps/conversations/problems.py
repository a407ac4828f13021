"""Errors of the REST API as RFC 9457 problems: type, title, status, detail, code, and a pointer for each field."""

from http import HTTPStatus
from typing import Any

from drf_standardized_errors.formatter import ExceptionFormatter
from drf_standardized_errors.handler import ExceptionHandler
from drf_standardized_errors.types import Error, ErrorResponse
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from apps.conversations.errors import ChatError

MEDIA_TYPE = "application/problem+json"


class ChatProblem(exceptions.APIException):
    """One of our own errors on its way out."""

    def __init__(self, error: ChatError) -> None:
        super().__init__(error.detail, error.code)
        self.status_code = error.status
        self.pointer = error.pointer
        self.wait = None if error.retry_after_ms is None else max(1, -(-error.retry_after_ms // 1000))


class RegistrationClosed(exceptions.PermissionDenied):
    default_detail = "Nobody can sign up here by themselves."
    default_code = "registration_closed"


class ProblemHandler(ExceptionHandler):
    def convert_known_exceptions(self, exc: Exception) -> Exception:
        return ChatProblem(exc) if isinstance(exc, ChatError) else super().convert_known_exceptions(exc)

    def get_response(self, exc: exceptions.APIException, data: Any) -> Response:
        response = super().get_response(exc, data)
        wait = getattr(exc, "wait", None)
        if wait is not None:
            response["Retry-After"] = str(int(wait))
        # Whatever the view renders, an error is a problem document.
        response.content_type = MEDIA_TYPE
        return response


class ProblemFormatter(ExceptionFormatter):
    def get_errors(self) -> list[Error]:
        if isinstance(self.exc, ChatProblem):
            return [Error(self.exc.get_codes(), str(self.exc.detail), self.exc.pointer)]
        return super().get_errors()

    def format_error_response(self, error_response: ErrorResponse) -> dict[str, Any]:
        status, first = self.exc.status_code, error_response.errors[0]
        invalid = isinstance(self.exc, exceptions.ValidationError)
        return {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": "The request is not valid." if invalid else first.detail,
            "code": "invalid" if invalid else first.code,
            "errors": [
                {"pointer": _pointer(error.attr), "detail": error.detail} for error in error_response.errors if error.attr
            ],
        }


class ProblemRenderer(JSONRenderer):
    media_type = MEDIA_TYPE


def _pointer(attr: str) -> str:
    if attr.startswith("/"):
        return attr
    return "/" + attr.removeprefix("non_field_errors").replace(".", "/")

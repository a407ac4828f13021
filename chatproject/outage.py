from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from redis.exceptions import RedisError

RETRY_AFTER_S = 5


class OutageMiddleware:
    """A page that needs Redis (logging in counts attempts there) says so while it is away, instead of failing."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, RedisError):
            return None
        text = "This does not work just now. Try again in a moment.\n"
        return HttpResponse(text, "text/plain; charset=utf-8", status=503, headers={"Retry-After": str(RETRY_AFTER_S)})

from collections.abc import Callable
from datetime import timedelta

from allauth.usersessions.models import UserSession
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

PRECISION = timedelta(minutes=1)


class SessionActivityMiddleware:
    """Keeps the list of someone's sessions. allauth's own does it by several writes for each request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.session.session_key and request.user.is_authenticated:
            own = UserSession.objects.filter(session_key=request.session.session_key, user_id=request.user.pk)
            if not own.filter(last_seen_at__gt=timezone.now() - PRECISION).exists():
                UserSession.objects.create_from_request(request)
        return self.get_response(request)

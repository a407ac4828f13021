"""What all views have in common."""

from typing import Any, TypeVar

from asgiref.sync import async_to_sync
from django.http import HttpResponse
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import SAFE_METHODS, AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from apps.accounts.authentication import BearerAuthentication, SessionAuthentication
from apps.accounts.people import Person
from apps.conversations import throttle
from apps.conversations.api import inputs
from apps.conversations.protocol import encode

S = TypeVar("S", bound=Serializer[Any])


class OnlyJson(DefaultContentNegotiation):
    """There is one format; `Accept` and `?format=` choose nothing."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class View(APIView):
    authentication_classes = [BearerAuthentication, SessionAuthentication]
    content_negotiation_class = OnlyJson
    metadata_class = None
    parser_classes = [inputs.JsonBody]
    renderer_classes = [JSONRenderer]
    open_methods: frozenset[str] = frozenset()  # those that need, and look at, no credentials

    def person(self) -> Person:
        return Person.of(self.request.user)  # type: ignore[arg-type]

    def given(self, serializer: type[S], data: Any = None) -> dict[str, Any]:
        """The validated body. Raises ValidationError."""
        body = serializer(data=self.request.data if data is None else data)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)

    def asked(self, serializer: type[inputs.Query] = inputs.NoQuery) -> dict[str, Any]:
        """The validated query. Raises ValidationError."""
        return self.given(serializer, self.request.query_params)

    def initialize_request(self, request: Any, *args: Any, **kwargs: Any) -> Request:
        if "HTTP_TRANSFER_ENCODING" in request.META:
            # DRF takes a body of unstated length for none; the parser reads no more than this anyway.
            request.META.setdefault("CONTENT_LENGTH", str(inputs.MAX_BODY_BYTES))
        return super().initialize_request(request, *args, **kwargs)

    @property
    def is_open(self) -> bool:
        return self.request.method in self.open_methods

    def get_permissions(self) -> list[Any]:
        return [AllowAny()] if self.is_open else super().get_permissions()

    def check_throttles(self, request: Request) -> None:
        """What changes something, of those who are known; logging in and signing up have limits of their own."""
        if request.method not in SAFE_METHODS and not self.is_open:
            async_to_sync(throttle.take)(throttle.writes(), str(request.user.pk))

    def perform_authentication(self, request: Request) -> None:
        if not self.is_open:
            super().perform_authentication(request)


def answer(content: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(
        encode(content), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def nothing() -> HttpResponse:
    return HttpResponse(status=204)

"""
REST, `/api/v1/` (docs/protocol.md, section 2). A view checks the shape of what comes in, and calls services and reads.

What goes out is encoded by the codec of the WebSocket, so that a message or conversation looks the same on both ways.
"""

import json
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from allauth.account.adapter import get_adapter
from allauth.core import ratelimit
from asgiref.sync import async_to_sync
from csp.decorators import csp_update
from django.conf import settings
from django.core.exceptions import ValidationError as InvalidModel
from django.http import HttpResponse
from django.urls import path, register_converter
from django.urls.converters import StringConverter
from django.utils.decorators import method_decorator
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import OpenApiParameter, extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.exceptions import AuthenticationFailed, NotFound, ValidationError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.permissions import SAFE_METHODS, AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from apps.accounts import services as accounts
from apps.accounts.authentication import BearerAuthentication, SessionAuthentication
from apps.accounts.identity import session_id_of
from apps.accounts.models import ApiToken, User
from apps.accounts.people import Person
from apps.conversations import api_input, reads, services, throttle
from apps.conversations.api_schema import (
    ConversationWishesOut,
    DeviceOut,
    List,
    MessagePage,
    Token,
    VapidKey,
    WishesOut,
    replies,
)
from apps.conversations.errors import RateLimited
from apps.conversations.messages import Draft
from apps.conversations.problems import RegistrationClosed
from apps.conversations.protocol import ConversationOut, MessageOut, PresenceOut, clean_content, encode
from apps.push import services as push
from apps.push import vapid
from apps.push.models import Device
from apps.push.subscription import BadSubscription
from apps.push.wishes import BadWish, keep_wishes, wishes_of

S = TypeVar("S", bound=Serializer[Any])

LOGIN_PAUSE_MS = 60_000


class OnlyJson(DefaultContentNegotiation):
    """There is one format; `Accept` and `?format=` choose nothing."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class View(APIView):
    authentication_classes = [BearerAuthentication, SessionAuthentication]
    content_negotiation_class = OnlyJson
    metadata_class = None
    parser_classes = [api_input.JsonBody]
    renderer_classes = [JSONRenderer]
    open_methods: frozenset[str] = frozenset()  # those that need, and look at, no credentials

    def person(self) -> Person:
        return Person.of(self.request.user)  # type: ignore[arg-type]

    def given(self, serializer: type[S], data: Any = None) -> dict[str, Any]:
        """The validated body. Raises ValidationError."""
        body = serializer(data=self.request.data if data is None else data)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)

    def asked(self, serializer: type[api_input.Query] = api_input.NoQuery) -> dict[str, Any]:
        """The validated query. Raises ValidationError."""
        return self.given(serializer, self.request.query_params)

    def initialize_request(self, request: Any, *args: Any, **kwargs: Any) -> Request:
        if "HTTP_TRANSFER_ENCODING" in request.META:
            # DRF takes a body of unstated length for none; the parser reads no more than this anyway.
            request.META.setdefault("CONTENT_LENGTH", str(api_input.MAX_BODY_BYTES))
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


# --- who I am --------------------------------------------------------------------------------------------------------
class TokenView(View):
    open_methods = frozenset({"POST"})

    @extend_schema(operation_id="log_in", auth=[], request=api_input.Credentials, responses=replies(Token))
    def post(self, request: Request) -> HttpResponse:
        """A token for this username and password."""
        _limit(request, "login")
        given = self.given(api_input.Credentials)
        try:
            user = get_adapter().authenticate(request._request, **given)
        except InvalidModel as error:
            raise RateLimited("Too many failed logins; wait a while.", retry_after_ms=LOGIN_PAUSE_MS) from error
        if user is None or not user.is_active:
            raise AuthenticationFailed("This username and password do not fit.")
        return answer(Token(accounts.issue_token(user)))

    @extend_schema(operation_id="log_out", request=None, responses={204: None})
    def delete(self, request: Request) -> HttpResponse:
        """End the token of this request, and its sockets."""
        if not isinstance(request.auth, ApiToken):
            raise AuthenticationFailed("Send the token that is to end.")
        accounts.end_token(request.auth)
        return nothing()


def _limit(request: Request, action: str) -> None:
    """The same limits as on the pages for login and sign-up. Raises RateLimited."""
    if ratelimit.consume(request._request, action=action) is None:
        raise RateLimited("Too many attempts; wait a minute.", retry_after_ms=LOGIN_PAUSE_MS)


class UsersView(View):
    open_methods = frozenset({"POST"})

    @extend_schema(operation_id="find_people", parameters=[api_input.PeopleQuery], responses=replies(List[Person]))
    def get(self, request: Request) -> HttpResponse:
        """Find people by the beginning of their username or name."""
        asked = self.asked(api_input.PeopleQuery)
        found = User.objects.found_by(asked["q"], self.person().id)
        page = list(found.filter(username__gt=asked.get("cursor", ""))[: asked["limit"] + 1])
        shown = [Person.of(user) for user in page[: asked["limit"]]]
        return answer(List(shown, shown[-1].username if len(page) > asked["limit"] else None))

    @extend_schema(operation_id="sign_up", auth=[], request=api_input.SignUp, responses=replies(Person, 201))
    def post(self, request: Request) -> HttpResponse:
        """Sign up."""
        if not settings.CHAT_REGISTRATION_OPEN:
            raise RegistrationClosed
        _limit(request, "signup")
        try:
            user = accounts.sign_up(**self.given(api_input.SignUp))
        except InvalidModel as error:
            wrong = error.message_dict if hasattr(error, "error_dict") else {"password": error.messages}
            raise ValidationError(wrong) from error
        return answer(Person.of(user), 201)


class MeView(View):
    @extend_schema(operation_id="who_am_i", responses=replies(Person))
    def get(self, request: Request) -> HttpResponse:
        """Who I am."""
        self.asked()
        return answer(self.person())

    @extend_schema(operation_id="change_profile", request=api_input.Profile, responses=replies(Person))
    def patch(self, request: Request) -> HttpResponse:
        """Change how others see me."""
        request.user.display_name = self.given(api_input.Profile)["display_name"]
        request.user.save(update_fields=["display_name"])
        return answer(self.person())


class BlocksView(View):
    @extend_schema(operation_id="blocked_people", responses=replies(List[Person]))
    def get(self, request: Request) -> HttpResponse:
        """Whom I have blocked."""
        self.asked()
        blocked = User.objects.filter(blocked_by__blocker_id=self.person().id).order_by("username")
        return answer(List([Person.of(user) for user in blocked], None))

    @extend_schema(operation_id="block", request=api_input.Username, responses={204: None})
    def post(self, request: Request) -> HttpResponse:
        """Block a person: neither of us can write to the other directly."""
        async_to_sync(services.block)(self.person(), self.given(api_input.Username)["username"])
        return nothing()


class BlockView(View):
    @extend_schema(operation_id="unblock", responses={204: None})
    def delete(self, request: Request, username: str) -> HttpResponse:
        """End a block."""
        async_to_sync(services.unblock)(self.person(), username)
        return nothing()


class DevicesView(View):
    @extend_schema(operation_id="devices", responses=replies(List[DeviceOut]))
    def get(self, request: Request) -> HttpResponse:
        """Where my notifications go."""
        self.asked()
        devices = Device.objects.filter(user_id=self.person().id).order_by("created_at", "id")
        return answer(List([DeviceOut.of(device) for device in devices], None))

    @extend_schema(operation_id="register_device", request=api_input.NewDevice, responses=replies(DeviceOut, 201))
    def post(self, request: Request) -> HttpResponse:
        """Let notifications come to a device. A token that another account had moves here; at most 20."""
        try:
            new = push.NewDevice(**self.given(api_input.NewDevice))
            device = push.register_device(request.user, new, _session_id(request))  # type: ignore[arg-type]
        except (push.TooManyDevices, BadSubscription) as error:
            raise ValidationError({"token": [str(error)]}) from error
        return answer(DeviceOut.of(device), 201)

    @extend_schema(
        operation_id="remove_device_by_token",
        request=api_input.DeviceToken,
        parameters=[api_input.DeviceQuery],
        responses={204: None},
    )
    def delete(self, request: Request) -> HttpResponse:
        """Forget the device with this token, named in the query or the body; one that is gone already is gone."""
        given = self.given(api_input.DeviceToken, self.asked(api_input.DeviceQuery) or None)
        push.remove_token(request.user, given["token"])  # type: ignore[arg-type]
        return nothing()


def _session_id(request: Request) -> str:
    """Of what this request is authenticated with."""
    if isinstance(request.auth, ApiToken):
        return request.auth.session_id
    return session_id_of(request.session.session_key or "")


class DeviceView(View):
    @extend_schema(operation_id="remove_device", responses={204: None})
    def delete(self, request: Request, device_id: UUID) -> HttpResponse:
        """Forget a device."""
        if not push.remove_device(request.user, device_id):  # type: ignore[arg-type]
            raise NotFound("You have no such device.")
        return nothing()


class VapidKeyView(View):
    @extend_schema(operation_id="vapid_key", responses=replies(VapidKey))
    def get(self, request: Request) -> HttpResponse:
        """What a browser subscribes to, so that we may push to it (applicationServerKey)."""
        self.asked()
        if not vapid.public_key():
            raise NotFound("There is no Web Push here.")
        return answer(VapidKey(vapid.public_key()))


class WishesView(View):
    @extend_schema(operation_id="notification_settings", responses=replies(WishesOut))
    def get(self, request: Request) -> HttpResponse:
        """How I want to be told by pushes."""
        self.asked()
        return answer(WishesOut.of(wishes_of(self.person().id), settings.PUSH_CONTENT))

    @extend_schema(operation_id="change_notification_settings", request=api_input.Wishes, responses=replies(WishesOut))
    def patch(self, request: Request) -> HttpResponse:
        """Change what is given of it."""
        wishes = msgspec.structs.replace(wishes_of(self.person().id), **self.given(api_input.Wishes))
        try:
            keep_wishes(self.person().id, wishes)
        except BadWish as error:
            raise ValidationError({error.field: [str(error)]}) from error
        return answer(WishesOut.of(wishes, settings.PUSH_CONTENT))


class PresenceView(View):
    @extend_schema(operation_id="presence", parameters=[api_input.PresenceQuery], responses=replies(List[PresenceOut]))
    def get(self, request: Request) -> HttpResponse:
        """Who of these is online. `nodes` only for staff."""
        staff = bool(request.user.is_staff)
        found = async_to_sync(reads.presence_of)(self.asked(api_input.PresenceQuery)["user_ids"], with_nodes=staff)
        return answer(List(found, None))


# --- conversations ---------------------------------------------------------------------------------------------------
class ConversationsView(View):
    @extend_schema(
        operation_id="conversations", parameters=[api_input.PageQuery], responses=replies(List[ConversationOut])
    )
    def get(self, request: Request) -> HttpResponse:
        """Mine, the most recently active first."""
        asked = self.asked(api_input.PageQuery)
        page = async_to_sync(reads.conversations_page)(self.person(), asked.get("cursor"), asked["limit"])
        return answer(List(*page))

    @extend_schema(
        operation_id="start_conversation",
        request=api_input.NewConversation,
        responses=replies(ConversationOut, 200, 201),
    )
    def post(self, request: Request) -> HttpResponse:
        """A new group (201), or the one direct conversation of the two (200 when it exists)."""
        given, person = self.given(api_input.NewConversation), self.person()
        if given["kind"] == "direct":
            conversation_id, created = async_to_sync(services.direct_conversation)(person, given["members"][0])
        else:
            _check_members(person, given["members"])
            conversation_id = async_to_sync(services.create_group)(person, given["title"], given["members"])
            created = True
        return answer(async_to_sync(reads.conversation)(person, conversation_id), 201 if created else 200)


def _check_members(creator: Person, usernames: list[str]) -> None:
    """Raises ValidationError, which points at each name that is nobody's."""
    names = [name.lower() for name in usernames]
    known = set(User.objects.filter(is_active=True, username__in=names).values_list("username", flat=True))
    unknown = {index: ["There is nobody of this name."] for index, name in enumerate(names) if name not in known}
    if unknown:
        raise ValidationError({"members": unknown})
    if not known - {creator.username}:
        raise ValidationError({"members": ["A group needs someone besides yourself."]})


class ConversationView(View):
    @extend_schema(operation_id="conversation", responses=replies(ConversationOut))
    def get(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """One of mine."""
        self.asked()
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id))

    @extend_schema(operation_id="rename_group", request=api_input.Title, responses=replies(ConversationOut))
    def patch(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Rename a group (owner and admins)."""
        async_to_sync(services.rename)(self.person(), conversation_id, self.given(api_input.Title)["title"])
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id))


class MembersView(View):
    @extend_schema(operation_id="add_member", request=api_input.NewMember, responses=replies(ConversationOut, 201))
    def post(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Add a person to a group (owner and admins), as an admin (owner only) or member."""
        async_to_sync(services.add_member)(self.person(), conversation_id, **self.given(api_input.NewMember))
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id), 201)


class MemberView(View):
    @extend_schema(operation_id="change_role", request=api_input.Role, responses=replies(ConversationOut))
    def patch(self, request: Request, conversation_id: UUID, username: str) -> HttpResponse:
        """Change a role; "owner" hands the group over (owner only)."""
        async_to_sync(services.change_role)(
            self.person(), conversation_id, username, self.given(api_input.Role)["role"]
        )
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id))

    @extend_schema(operation_id="remove_member", responses={204: None})
    def delete(self, request: Request, conversation_id: UUID, username: str) -> HttpResponse:
        """Remove a person (owner and admins), or leave (oneself)."""
        async_to_sync(services.remove_member)(self.person(), conversation_id, username)
        return nothing()


class MessagesView(View):
    def check_throttles(self, request: Request) -> None:
        """What is sent is counted where it is sent, whichever way it comes."""

    @extend_schema(operation_id="messages", parameters=[api_input.MessagesQuery], responses=replies(MessagePage))
    def get(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """The newest, or those before or after a seq; oldest first."""
        page = async_to_sync(reads.messages_page)(self.person(), conversation_id, **self.asked(api_input.MessagesQuery))
        return answer(MessagePage(*page))

    @extend_schema(
        operation_id="send_message",
        request=api_input.NewMessage,
        parameters=[OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="client_msg_id")],
        responses=replies(MessageOut, 200, 201),
    )
    def post(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Say something: 201, and 200 with the first result for the same client_msg_id."""
        given, person = self.given(api_input.NewMessage, _with_idempotency_key(request)), self.person()
        # A REST client does not say where to look for an earlier try: everywhere.
        draft = Draft(conversation_id, person.id, given["client_msg_id"], clean_content(given["content"]), after_seq=0)
        message, out = async_to_sync(services.send_and_show)(draft, person)
        return answer(out, 200 if message.repeated else 201)


def _with_idempotency_key(request: Request) -> Any:
    """The body, with its client_msg_id from the header where it has none itself."""
    key = request.headers.get("Idempotency-Key")
    if key is None or not isinstance(request.data, dict):
        return request.data
    return {"client_msg_id": key.strip('"'), **request.data}


class ReadView(View):
    @extend_schema(operation_id="mark_read", request=api_input.ReadUpTo, responses={204: None})
    def put(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """I have read up to here; never moves back."""
        async_to_sync(services.mark_read)(self.person(), conversation_id, self.given(api_input.ReadUpTo)["seq"])
        return nothing()


class ConversationWishesView(View):
    @extend_schema(operation_id="conversation_notification_settings", responses=replies(ConversationWishesOut))
    def get(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """How I want to be told of what is said here."""
        self.asked()
        wishes = async_to_sync(reads.conversation_wishes)(self.person(), conversation_id)
        return answer(ConversationWishesOut.of(wishes))

    @extend_schema(
        operation_id="change_conversation_notification_settings",
        request=api_input.ConversationWishes,
        responses=replies(ConversationWishesOut),
    )
    def patch(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Mute the conversation for a while, or hear of mentions of me only."""
        now = async_to_sync(reads.conversation_wishes)(self.person(), conversation_id)
        wishes = msgspec.structs.replace(now, **self.given(api_input.ConversationWishes))
        async_to_sync(services.want_notifications)(self.person(), conversation_id, wishes)
        return answer(ConversationWishesOut.of(wishes))


# --- about this API --------------------------------------------------------------------------------------------------
class SchemaView(View):
    open_methods = frozenset({"GET"})
    schema = None

    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(openapi(), content_type="application/json")


@cache
def openapi() -> bytes:
    """The OpenAPI document. It depends on nothing but the code, so it is made once."""
    return json.dumps(SchemaGenerator().get_schema(request=None, public=True)).encode()


# Swagger UI styles its elements from JavaScript; its scripts and style sheets are files of ours.
@method_decorator(csp_update({"style-src": ["'unsafe-inline'"]}), name="dispatch")
class DocsView(SpectacularSwaggerSplitView):
    authentication_classes = []
    permission_classes = [AllowAny]


class NowhereView(View):
    """For every address under /api/ without a view: a problem document, and no login needed to see it."""

    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound("There is nothing at this address.")


class UsernameConverter(StringConverter):
    regex = r"[A-Za-z0-9_.-]{1,150}"


register_converter(UsernameConverter, "username")

urlpatterns = [
    path("auth/token", TokenView.as_view()),
    path("users", UsersView.as_view()),
    path("users/me", MeView.as_view()),
    path("users/me/blocks", BlocksView.as_view()),
    path("users/me/blocks/<username:username>", BlockView.as_view()),
    path("users/me/notification-settings", WishesView.as_view()),
    path("users/me/devices", DevicesView.as_view()),
    path("users/me/devices/<uuid:device_id>", DeviceView.as_view()),
    path("push/vapid-key", VapidKeyView.as_view()),
    path("presence", PresenceView.as_view()),
    path("conversations", ConversationsView.as_view()),
    path("conversations/<uuid:conversation_id>", ConversationView.as_view()),
    path("conversations/<uuid:conversation_id>/members", MembersView.as_view()),
    path("conversations/<uuid:conversation_id>/members/<username:username>", MemberView.as_view()),
    path("conversations/<uuid:conversation_id>/messages", MessagesView.as_view()),
    path("conversations/<uuid:conversation_id>/read", ReadView.as_view()),
    path("conversations/<uuid:conversation_id>/notification-settings", ConversationWishesView.as_view()),
    path("schema", SchemaView.as_view(), name="schema"),
    path("docs", DocsView.as_view(), name="api-docs"),
]

"""
REST, `/api/v1/` (docs/protocol.md, section 2). A view checks the shape of what comes in, and calls services and reads.

What goes out is encoded by the codec of the WebSocket, so that a message or conversation looks the same on both ways.
"""

from typing import Any, TypeVar
from uuid import UUID

from allauth.account.adapter import get_adapter
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import ValidationError as InvalidModel
from django.db.models import Q
from django.http import HttpResponse
from django.urls import path, re_path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework import serializers
from rest_framework.exceptions import AuthenticationFailed, NotFound, Throttled, ValidationError
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.accounts import services as accounts
from apps.accounts.models import ApiToken, User
from apps.accounts.people import Person
from apps.conversations import reads, services
from apps.conversations.api_schema import DeviceOut, List, MessagePage, Token, replies
from apps.conversations.messages import Draft
from apps.conversations.problems import RegistrationClosed
from apps.conversations.protocol import ConversationOut, MessageOut, PresenceOut, clean_content, encode
from apps.push import services as push
from apps.push.models import Device

S = TypeVar("S", bound=serializers.Serializer[Any])

MAX_SEQ = 2**63 - 1
PAGE = 50


# --- what comes in ---------------------------------------------------------------------------------------------------
class Text(serializers.CharField):
    """Text that can be stored: no NUL (DRF refuses it), no half of a surrogate pair."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValidationError("Not a string.", code="invalid")
        if any("\ud800" <= character <= "\udfff" for character in data):
            raise ValidationError("Not valid Unicode.", code="invalid")
        return str(super().to_internal_value(data))


class Query(serializers.Serializer[Any]):
    """Query parameters: one that we do not know is a mistake, not a filter that matches everything."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = {name: ["There is no such parameter."] for name in data if name not in self.fields}
        if unknown:
            raise ValidationError(unknown)
        return super().to_internal_value(data)


class PageQuery(Query):
    limit = serializers.IntegerField(min_value=1, max_value=100, default=PAGE)
    cursor = Text(required=False, max_length=300)


class PeopleQuery(PageQuery):
    q = Text(min_length=1, max_length=64)


class MessagesQuery(Query):
    limit = serializers.IntegerField(min_value=1, max_value=100, default=PAGE)
    before_seq = serializers.IntegerField(min_value=1, max_value=MAX_SEQ, required=False)
    after_seq = serializers.IntegerField(min_value=0, max_value=MAX_SEQ, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "before_seq" in attrs and "after_seq" in attrs:
            raise ValidationError({"after_seq": "Give either before_seq or after_seq."})
        return attrs


class PresenceQuery(Query):
    user_ids = Text(max_length=500 * 37)

    def validate_user_ids(self, value: str) -> list[UUID]:
        ids = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=500)
        return list(ids.run_validation(value.split(",")))


class Credentials(serializers.Serializer[Any]):
    username = Text(max_length=150)
    password = Text(max_length=1_000, trim_whitespace=False)


class SignUp(Credentials):
    display_name = Text(max_length=64, required=False, default="")


class Profile(serializers.Serializer[Any]):
    display_name = Text(max_length=64)


class Username(serializers.Serializer[Any]):
    username = Text(max_length=150)


class NewConversation(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(["direct", "group"])
    title = Text(max_length=80, required=False, default="", allow_blank=True)
    members = serializers.ListField(child=Text(max_length=150), min_length=1, max_length=100)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["kind"] == "direct" and len(attrs["members"]) != 1:
            raise ValidationError({"members": "A direct conversation is with one person."})
        if attrs["kind"] == "group" and not attrs["title"]:
            raise ValidationError({"title": "A group needs a title."})
        return attrs


class Title(serializers.Serializer[Any]):
    title = Text(max_length=80)


class NewMember(Username):
    role = serializers.ChoiceField(["admin", "member"], default="member")


class Role(serializers.Serializer[Any]):
    role = serializers.ChoiceField(["owner", "admin", "member"])


class NewMessage(serializers.Serializer[Any]):
    content = Text(trim_whitespace=False, allow_blank=True)
    client_msg_id = serializers.UUIDField()


class ReadUpTo(serializers.Serializer[Any]):
    seq = serializers.IntegerField(min_value=0, max_value=MAX_SEQ)


class NewDevice(serializers.Serializer[Any]):
    platform = serializers.ChoiceField(["fcm", "apns", "web"])
    token = Text(max_length=4_096)
    name = Text(max_length=64, required=False, default="", allow_blank=True)


class DeviceToken(serializers.Serializer[Any]):
    token = Text(max_length=4_096)


# --- views -----------------------------------------------------------------------------------------------------------
class View(APIView):
    def person(self) -> Person:
        return Person.of(self.request.user)  # type: ignore[arg-type]

    def given(self, serializer: type[S], data: Any = None) -> dict[str, Any]:
        """The validated body. Raises ValidationError."""
        body = serializer(data=self.request.data if data is None else data)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)

    def asked(self, serializer: type[Query]) -> dict[str, Any]:
        """The validated query. Raises ValidationError."""
        return self.given(serializer, self.request.query_params.dict())


def answer(content: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(encode(content), status=status, content_type="application/json")


def nothing() -> HttpResponse:
    return HttpResponse(status=204)


class TokenView(View):
    permission_classes = [AllowAny]

    @extend_schema(request=Credentials, responses=replies(Token))
    def post(self, request: Request) -> HttpResponse:
        """A token for this username and password."""
        self.authentication_classes = []
        given = self.given(Credentials)
        try:
            user = get_adapter().authenticate(request._request, **given)
        except InvalidModel as error:
            raise Throttled(300, "Too many failed logins; wait a while.") from error
        if user is None or not user.is_active:
            raise AuthenticationFailed("This username and password do not fit.")
        return answer(Token(accounts.issue_token(user)))

    @extend_schema(request=None, responses={204: None})
    def delete(self, request: Request) -> HttpResponse:
        """End the token of this request, and its sockets."""
        if not isinstance(request.auth, ApiToken):
            raise AuthenticationFailed("Send the token that is to end.")
        accounts.end_token(request.auth)
        return nothing()


class UsersView(View):
    def get_permissions(self) -> list[Any]:
        return [AllowAny()] if self.request.method == "POST" else super().get_permissions()

    @extend_schema(parameters=[PeopleQuery], responses=replies(List[Person]))
    def get(self, request: Request) -> HttpResponse:
        """Find people by the beginning of their username or name."""
        asked = self.asked(PeopleQuery)
        found = User.objects.filter(is_active=True).exclude(id=self.person().id)
        found = found.exclude(blocks__blocked_id=self.person().id)
        text = asked["q"].strip()
        found = found.filter(Q(username__startswith=text.lower()) | Q(display_name__istartswith=text))
        page = list(found.filter(username__gt=asked.get("cursor", "")).order_by("username")[: asked["limit"] + 1])
        shown = [Person.of(user) for user in page[: asked["limit"]]]
        return answer(List(shown, shown[-1].username if len(page) > asked["limit"] else None))

    @extend_schema(request=SignUp, responses=replies(Person, 201))
    def post(self, request: Request) -> HttpResponse:
        """Sign up."""
        if not settings.CHAT_REGISTRATION_OPEN:
            raise RegistrationClosed
        try:
            user = accounts.sign_up(**self.given(SignUp))
        except InvalidModel as error:
            raise ValidationError(error.message_dict if hasattr(error, "error_dict") else {"password": error.messages}) from error
        return answer(Person.of(user), 201)


class MeView(View):
    @extend_schema(responses=replies(Person))
    def get(self, request: Request) -> HttpResponse:
        return answer(self.person())

    @extend_schema(request=Profile, responses=replies(Person))
    def patch(self, request: Request) -> HttpResponse:
        """Change how others see me."""
        request.user.display_name = self.given(Profile)["display_name"]
        request.user.save(update_fields=["display_name"])
        return answer(self.person())


class BlocksView(View):
    @extend_schema(responses=replies(List[Person]))
    def get(self, request: Request) -> HttpResponse:
        """Whom I have blocked."""
        blocked = User.objects.filter(blocked_by__blocker_id=self.person().id).order_by("username")
        return answer(List([Person.of(user) for user in blocked], None))

    @extend_schema(request=Username, responses={204: None})
    def post(self, request: Request) -> HttpResponse:
        """Block a person: neither of us can write to the other directly."""
        async_to_sync(services.block)(self.person(), self.given(Username)["username"])
        return nothing()


class BlockView(View):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, username: str) -> HttpResponse:
        async_to_sync(services.unblock)(self.person(), username)
        return nothing()


class ConversationsView(View):
    @extend_schema(parameters=[PageQuery], responses=replies(List[ConversationOut]))
    def get(self, request: Request) -> HttpResponse:
        """Mine, the most recently active first."""
        asked = self.asked(PageQuery)
        page = async_to_sync(reads.conversations_page)(self.person(), asked.get("cursor"), asked["limit"])
        return answer(List(*page))

    @extend_schema(request=NewConversation, responses=replies(ConversationOut, 200, 201))
    def post(self, request: Request) -> HttpResponse:
        """A new group (201), or the one direct conversation of the two (200 when it exists)."""
        given = self.given(NewConversation)
        person = self.person()
        known = set(User.objects.filter(is_active=True, username__in=map(str.lower, given["members"])).values_list("username", flat=True))
        unknown = {index: ["There is nobody of this name."] for index, name in enumerate(given["members"]) if name.lower() not in known}
        if unknown and given["kind"] == "group":
            raise ValidationError({"members": unknown})
        if given["kind"] == "direct":
            conversation_id, created = async_to_sync(services.direct_conversation)(person, given["members"][0])
        else:
            conversation_id, created = async_to_sync(services.create_group)(person, given["title"], given["members"]), True
        out = async_to_sync(reads.conversation)(person, conversation_id)
        return answer(out, 201 if created else 200)


class ConversationView(View):
    @extend_schema(responses=replies(ConversationOut))
    def get(self, request: Request, conversation_id: UUID) -> HttpResponse:
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id))

    @extend_schema(request=Title, responses=replies(ConversationOut))
    def patch(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Rename a group (owner and admins)."""
        async_to_sync(services.rename)(self.person(), conversation_id, self.given(Title)["title"])
        return self.get(request, conversation_id)


class MembersView(View):
    @extend_schema(request=NewMember, responses=replies(ConversationOut, 201))
    def post(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Add a person to a group (owner and admins)."""
        given = self.given(NewMember)
        async_to_sync(services.add_member)(self.person(), conversation_id, given["username"])
        if given["role"] != "member":
            async_to_sync(services.change_role)(self.person(), conversation_id, given["username"], given["role"])
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id), 201)


class MemberView(View):
    @extend_schema(request=Role, responses=replies(ConversationOut))
    def patch(self, request: Request, conversation_id: UUID, username: str) -> HttpResponse:
        """Change a role; "owner" hands the group over (owner only)."""
        async_to_sync(services.change_role)(self.person(), conversation_id, username, self.given(Role)["role"])
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, conversation_id: UUID, username: str) -> HttpResponse:
        """Remove a person (owner and admins), or leave (oneself)."""
        async_to_sync(services.remove_member)(self.person(), conversation_id, username)
        return nothing()


class MessagesView(View):
    @extend_schema(parameters=[MessagesQuery], responses=replies(MessagePage))
    def get(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """The newest, or those before or after a seq; oldest first."""
        page = async_to_sync(reads.messages_page)(self.person(), conversation_id, **self.asked(MessagesQuery))
        return answer(MessagePage(*page))

    @extend_schema(
        request=NewMessage,
        parameters=[OpenApiParameter("Idempotency-Key", UUID, OpenApiParameter.HEADER)],
        responses=replies(MessageOut, 200, 201),
    )
    def post(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Say something: 201, and 200 with the first result for the same client_msg_id."""
        data = request.data if isinstance(request.data, dict) else {}
        given = self.given(NewMessage, {"client_msg_id": request.headers.get("Idempotency-Key"), **data})
        person, content = self.person(), clean_content(given["content"])
        # A REST client does not say where to look for an earlier try: everywhere.
        draft = Draft(conversation_id, person.id, given["client_msg_id"], content, after_seq=0)
        message, out = async_to_sync(services.send_and_show)(draft, person)
        return answer(out, 200 if message.repeated else 201)


class ReadView(View):
    @extend_schema(request=ReadUpTo, responses={204: None})
    def put(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """I have read up to here; never moves back."""
        async_to_sync(services.mark_read)(self.person(), conversation_id, self.given(ReadUpTo)["seq"])
        return nothing()


class PresenceView(View):
    @extend_schema(parameters=[PresenceQuery], responses=replies(List[PresenceOut]))
    def get(self, request: Request) -> HttpResponse:
        """Who of these is online; `user_ids` separated by commas. `nodes` only for staff."""
        staff = bool(request.user.is_staff)
        found = async_to_sync(reads.presence_of)(self.asked(PresenceQuery)["user_ids"], with_nodes=staff)
        return answer(List(found, None))


class DevicesView(View):
    @extend_schema(responses=replies(List[DeviceOut]))
    def get(self, request: Request) -> HttpResponse:
        """Where my notifications go."""
        return answer(List([DeviceOut.of(device) for device in Device.objects.filter(user=request.user).order_by("created_at")], None))

    @extend_schema(request=NewDevice, responses=replies(DeviceOut, 201))
    def post(self, request: Request) -> HttpResponse:
        try:
            device = push.register_device(request.user, **self.given(NewDevice))  # type: ignore[arg-type]
        except push.TooManyDevices as error:
            raise ValidationError({"token": [str(error)]}) from error
        return answer(DeviceOut.of(device), 201)

    @extend_schema(request=None, parameters=[OpenApiParameter("token", str)], responses={204: None})
    def delete(self, request: Request) -> HttpResponse:
        """Forget the device with this token (in the query or the body)."""
        token = self.given(DeviceToken, request.query_params.dict() or None)["token"]
        Device.objects.filter(user=request.user, token=token).delete()
        return nothing()


class DeviceView(View):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, device_id: UUID) -> HttpResponse:
        if not Device.objects.filter(user=request.user, id=device_id).delete()[0]:
            raise NotFound("You have no such device.")
        return nothing()


class NoSuchView(View):
    permission_classes = [AllowAny]

    @extend_schema(exclude=True)
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound("There is nothing at this address.")


urlpatterns = [
    path("auth/token", TokenView.as_view()),
    path("users", UsersView.as_view()),
    path("users/me", MeView.as_view()),
    path("users/me/blocks", BlocksView.as_view()),
    path("users/me/blocks/<str:username>", BlockView.as_view()),
    path("users/me/devices", DevicesView.as_view()),
    path("users/me/devices/<uuid:device_id>", DeviceView.as_view()),
    path("conversations", ConversationsView.as_view()),
    path("conversations/<uuid:conversation_id>", ConversationView.as_view()),
    path("conversations/<uuid:conversation_id>/members", MembersView.as_view()),
    path("conversations/<uuid:conversation_id>/members/<str:username>", MemberView.as_view()),
    path("conversations/<uuid:conversation_id>/messages", MessagesView.as_view()),
    path("conversations/<uuid:conversation_id>/read", ReadView.as_view()),
    path("presence", PresenceView.as_view()),
    path("schema", SpectacularAPIView.as_view(permission_classes=[AllowAny]), name="schema"),
    path("docs", SpectacularSwaggerSplitView.as_view(permission_classes=[AllowAny]), name="api-docs"),
    re_path("", NoSuchView.as_view()),
]

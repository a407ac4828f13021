"""Who I am, and who else is here: tokens, accounts, blocks, devices, notifications, presence."""

from uuid import UUID

import msgspec
from allauth.account.adapter import get_adapter
from allauth.core import ratelimit
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import ValidationError as InvalidModel
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import AuthenticationFailed, NotFound, ValidationError
from rest_framework.request import Request

from apps.accounts import services as accounts
from apps.accounts.identity import session_id_of
from apps.accounts.models import ApiToken, User
from apps.accounts.people import Person
from apps.conversations import reads, services
from apps.conversations.api import inputs
from apps.conversations.api.schema import DeviceOut, List, Token, VapidKey, WishesOut, replies
from apps.conversations.api.view import View, answer, nothing
from apps.conversations.errors import RateLimited
from apps.conversations.problems import RegistrationClosed
from apps.conversations.protocol import PresenceOut
from apps.push import services as push
from apps.push import vapid
from apps.push.models import Device
from apps.push.subscription import BadSubscription
from apps.push.wishes import BadWish, keep_wishes, wishes_of

LOGIN_PAUSE_MS = 60_000


class TokenView(View):
    open_methods = frozenset({"POST"})

    @extend_schema(operation_id="log_in", auth=[], request=inputs.Credentials, responses=replies(Token))
    def post(self, request: Request) -> HttpResponse:
        """A token for this username and password."""
        _limit(request, "login")
        given = self.given(inputs.Credentials)
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

    @extend_schema(operation_id="find_people", parameters=[inputs.PeopleQuery], responses=replies(List[Person]))
    def get(self, request: Request) -> HttpResponse:
        """Find people by the beginning of their username or name."""
        asked = self.asked(inputs.PeopleQuery)
        found = User.objects.found_by(asked["q"], self.person().id)
        page = list(found.filter(username__gt=asked.get("cursor", ""))[: asked["limit"] + 1])
        shown = [Person.of(user) for user in page[: asked["limit"]]]
        return answer(List(shown, shown[-1].username if len(page) > asked["limit"] else None))

    @extend_schema(operation_id="sign_up", auth=[], request=inputs.SignUp, responses=replies(Person, 201))
    def post(self, request: Request) -> HttpResponse:
        """Sign up."""
        if not settings.CHAT_REGISTRATION_OPEN:
            raise RegistrationClosed
        _limit(request, "signup")
        try:
            user = accounts.sign_up(**self.given(inputs.SignUp))
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

    @extend_schema(operation_id="change_profile", request=inputs.Profile, responses=replies(Person))
    def patch(self, request: Request) -> HttpResponse:
        """Change how others see me."""
        request.user.display_name = self.given(inputs.Profile)["display_name"]
        request.user.save(update_fields=["display_name"])
        return answer(self.person())


class BlocksView(View):
    @extend_schema(operation_id="blocked_people", responses=replies(List[Person]))
    def get(self, request: Request) -> HttpResponse:
        """Whom I have blocked."""
        self.asked()
        blocked = User.objects.filter(blocked_by__blocker_id=self.person().id).order_by("username")
        return answer(List([Person.of(user) for user in blocked], None))

    @extend_schema(operation_id="block", request=inputs.Username, responses={204: None})
    def post(self, request: Request) -> HttpResponse:
        """Block a person: neither of us can write to the other directly."""
        async_to_sync(services.block)(self.person(), self.given(inputs.Username)["username"])
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

    @extend_schema(operation_id="register_device", request=inputs.NewDevice, responses=replies(DeviceOut, 201))
    def post(self, request: Request) -> HttpResponse:
        """Let notifications come to a device. A token that another account had moves here; at most 20."""
        try:
            new = push.NewDevice(**self.given(inputs.NewDevice))
            device = push.register_device(request.user, new, _session_id(request))  # type: ignore[arg-type]
        except (push.TooManyDevices, BadSubscription) as error:
            raise ValidationError({"token": [str(error)]}) from error
        return answer(DeviceOut.of(device), 201)

    @extend_schema(
        operation_id="remove_device_by_token",
        request=inputs.DeviceToken,
        parameters=[inputs.DeviceQuery],
        responses={204: None},
    )
    def delete(self, request: Request) -> HttpResponse:
        """Forget the device with this token, named in the query or the body; one that is gone already is gone."""
        given = self.given(inputs.DeviceToken, self.asked(inputs.DeviceQuery) or None)
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

    @extend_schema(operation_id="change_notification_settings", request=inputs.Wishes, responses=replies(WishesOut))
    def patch(self, request: Request) -> HttpResponse:
        """Change what is given of it."""
        wishes = msgspec.structs.replace(wishes_of(self.person().id), **self.given(inputs.Wishes))
        try:
            keep_wishes(self.person().id, wishes)
        except BadWish as error:
            raise ValidationError({error.field: [str(error)]}) from error
        return answer(WishesOut.of(wishes, settings.PUSH_CONTENT))


class PresenceView(View):
    @extend_schema(operation_id="presence", parameters=[inputs.PresenceQuery], responses=replies(List[PresenceOut]))
    def get(self, request: Request) -> HttpResponse:
        """Who of these is online. `nodes` only for staff."""
        staff = bool(request.user.is_staff)
        found = async_to_sync(reads.presence_of)(self.asked(inputs.PresenceQuery)["user_ids"], with_nodes=staff)
        return answer(List(found, None))

"""Conversations, their members and messages."""

from typing import Any
from uuid import UUID

import msgspec
from asgiref.sync import async_to_sync
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from apps.accounts.models import User
from apps.accounts.people import Person
from apps.conversations import reads, services
from apps.conversations.api import inputs
from apps.conversations.api.schema import ConversationWishesOut, List, MessagePage, replies
from apps.conversations.api.view import View, answer, nothing
from apps.conversations.messages import Draft
from apps.conversations.protocol import ConversationOut, MessageOut, clean_content


class ConversationsView(View):
    @extend_schema(
        operation_id="conversations", parameters=[inputs.PageQuery], responses=replies(List[ConversationOut])
    )
    def get(self, request: Request) -> HttpResponse:
        """Mine, the most recently active first."""
        asked = self.asked(inputs.PageQuery)
        page = async_to_sync(reads.conversations_page)(self.person(), asked.get("cursor"), asked["limit"])
        return answer(List(*page))

    @extend_schema(
        operation_id="start_conversation",
        request=inputs.NewConversation,
        responses=replies(ConversationOut, 200, 201),
    )
    def post(self, request: Request) -> HttpResponse:
        """A new group (201), or the one direct conversation of the two (200 when it exists)."""
        given, person = self.given(inputs.NewConversation), self.person()
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

    @extend_schema(operation_id="rename_group", request=inputs.Title, responses=replies(ConversationOut))
    def patch(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Rename a group (owner and admins)."""
        async_to_sync(services.rename)(self.person(), conversation_id, self.given(inputs.Title)["title"])
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id))


class MembersView(View):
    @extend_schema(operation_id="add_member", request=inputs.NewMember, responses=replies(ConversationOut, 201))
    def post(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Add a person to a group (owner and admins), as an admin (owner only) or member."""
        async_to_sync(services.add_member)(self.person(), conversation_id, **self.given(inputs.NewMember))
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id), 201)


class MemberView(View):
    @extend_schema(operation_id="change_role", request=inputs.Role, responses=replies(ConversationOut))
    def patch(self, request: Request, conversation_id: UUID, username: str) -> HttpResponse:
        """Change a role; "owner" hands the group over (owner only)."""
        async_to_sync(services.change_role)(self.person(), conversation_id, username, self.given(inputs.Role)["role"])
        return answer(async_to_sync(reads.conversation)(self.person(), conversation_id))

    @extend_schema(operation_id="remove_member", responses={204: None})
    def delete(self, request: Request, conversation_id: UUID, username: str) -> HttpResponse:
        """Remove a person (owner and admins), or leave (oneself)."""
        async_to_sync(services.remove_member)(self.person(), conversation_id, username)
        return nothing()


class MessagesView(View):
    def check_throttles(self, request: Request) -> None:
        """What is sent is counted where it is sent, whichever way it comes."""

    @extend_schema(operation_id="messages", parameters=[inputs.MessagesQuery], responses=replies(MessagePage))
    def get(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """The newest, or those before or after a seq; oldest first."""
        page = async_to_sync(reads.messages_page)(self.person(), conversation_id, **self.asked(inputs.MessagesQuery))
        return answer(MessagePage(*page))

    @extend_schema(
        operation_id="send_message",
        request=inputs.NewMessage,
        parameters=[OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="client_msg_id")],
        responses=replies(MessageOut, 200, 201),
    )
    def post(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Say something: 201, and 200 with the first result for the same client_msg_id."""
        given, person = self.given(inputs.NewMessage, _with_idempotency_key(request)), self.person()
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
    @extend_schema(operation_id="mark_read", request=inputs.ReadUpTo, responses={204: None})
    def put(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """I have read up to here; never moves back."""
        async_to_sync(services.mark_read)(self.person(), conversation_id, self.given(inputs.ReadUpTo)["seq"])
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
        request=inputs.ConversationWishes,
        responses=replies(ConversationWishesOut),
    )
    def patch(self, request: Request, conversation_id: UUID) -> HttpResponse:
        """Mute the conversation for a while, or hear of mentions of me only."""
        now = async_to_sync(reads.conversation_wishes)(self.person(), conversation_id)
        wishes = msgspec.structs.replace(now, **self.given(inputs.ConversationWishes))
        async_to_sync(services.want_notifications)(self.person(), conversation_id, wishes)
        return answer(ConversationWishesOut.of(wishes))

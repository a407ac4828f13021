"""The addresses of this API."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from apps.conversations.api.about import DocsView, SchemaView
from apps.conversations.api.conversations import (
    ConversationsView,
    ConversationView,
    ConversationWishesView,
    MembersView,
    MemberView,
    MessagesView,
    ReadView,
)
from apps.conversations.api.people import (
    BlocksView,
    BlockView,
    DevicesView,
    DeviceView,
    MeView,
    PresenceView,
    TokenView,
    UsersView,
    VapidKeyView,
    WishesView,
)


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

"""Conversations as facts: who, since when, how many. What was said is not shown, and not read."""

from asgiref.sync import async_to_sync
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest

from apps.conversations.errors import Unavailable
from apps.conversations.history import log
from apps.conversations.models import Conversation, Membership


class LookingOnly:
    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class MembershipInline(LookingOnly, admin.TabularInline):
    model = Membership
    fields = readonly_fields = ("user", "role", "joined_at", "left_at", "start_seq", "last_read_seq")
    ordering = ("joined_at",)


@admin.register(Conversation)
class ConversationAdmin(LookingOnly, admin.ModelAdmin):
    list_display = ("id", "kind", "title", "members", "left", "created_at")
    list_filter = ("kind", "created_at")
    search_fields = ("id", "title", "memberships__user__username")
    list_per_page = 50
    fields = ("id", "kind", "title", "members", "left", "messages", "created_at")
    inlines = (MembershipInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        present = Q(memberships__left_at__isnull=True)
        members = Count("memberships", filter=present, distinct=True)
        left = Count("memberships", filter=~present, distinct=True)
        return super().get_queryset(request).annotate(member_count=members, left_count=left)

    @admin.display(ordering="member_count")
    def members(self, conversation: Conversation) -> int:
        return conversation.member_count

    @admin.display(ordering="left_count")
    def left(self, conversation: Conversation) -> int:
        return conversation.left_count

    @admin.display
    def messages(self, conversation: Conversation) -> str:
        """Their number is the newest one's, as there are no gaps."""
        try:
            newest = async_to_sync(_newest_seq)(conversation)
        except Unavailable:
            return "The history does not answer."
        return str(newest)


async def _newest_seq(conversation: Conversation) -> int:
    newest = (await (await log()).latest([conversation.id])).get(conversation.id)
    return 0 if newest is None else newest.seq


@admin.register(Membership)
class MembershipAdmin(LookingOnly, admin.ModelAdmin):
    list_display = ("conversation", "user", "role", "joined_at", "left_at", "last_read_seq")
    list_filter = ("role", "joined_at", "left_at")
    list_select_related = ("conversation", "user")
    search_fields = ("conversation__id", "conversation__title", "user__username")
    list_per_page = 50

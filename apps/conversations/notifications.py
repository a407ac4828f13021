"""How a person wants to be told by pushes, from a page, without JavaScript. What a page shows is in templatetags."""

from datetime import UTC, datetime, time, timedelta
from uuid import UUID

import msgspec
from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.utils import timezone
from django.views.decorators.http import require_POST

from apps.accounts.people import Person
from apps.conversations import reads, services
from apps.conversations.errors import ChatError
from apps.push.wishes import BadWish, Wishes, keep_wishes

FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)
MUTES = {"1 hour": timedelta(hours=1), "8 hours": timedelta(hours=8), "a week": timedelta(weeks=1)}


@login_required
@require_POST
def change(request: HttpRequest) -> HttpResponse:
    try:
        wishes = Wishes(
            content=request.POST.get("content", ""),  # type: ignore[arg-type]  # keep_wishes looks at it
            time_zone=request.POST.get("time_zone", "").strip(),
            quiet_from=_clock_time(request.POST.get("quiet_from", ""), "quiet_from"),
            quiet_until=_clock_time(request.POST.get("quiet_until", ""), "quiet_until"),
        )
        keep_wishes(request.user.pk, wishes)
    except BadWish as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "You will be notified as you wish.")
    return redirect("settings")


def _clock_time(text: str, field: str) -> time | None:
    """Raises BadWish."""
    if not text:
        return None
    try:
        return time.fromisoformat(text).replace(second=0, microsecond=0, tzinfo=None)
    except ValueError as error:
        raise BadWish(field, "A time of day is like 22:00.") from error


@login_required
@require_POST
def change_of_conversation(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    person = Person.of(request.user)
    try:
        wishes = async_to_sync(reads.conversation_wishes)(person, conversation_id)
        changed = _changed(wishes, request.POST)
        async_to_sync(services.want_notifications)(person, conversation_id, changed)
    except ChatError as error:
        messages.error(request, error.detail)
        return redirect("conversations")
    return redirect("members", conversation_id)


def _changed(wishes: reads.ConversationWishes, given: dict[str, str]) -> reads.ConversationWishes:
    if "mute" in given:
        pause = MUTES.get(given["mute"])
        return msgspec.structs.replace(wishes, muted_until=FOR_EVER if pause is None else timezone.now() + pause)
    if "unmute" in given:
        return msgspec.structs.replace(wishes, muted_until=None)
    return msgspec.structs.replace(wishes, mentions_only=given.get("only") == "mentions")


urlpatterns = [
    path("settings/notifications/", change, name="change_notifications"),
    path("c/<uuid:conversation_id>/notifications/", change_of_conversation, name="conversation_notifications"),
]

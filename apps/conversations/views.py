"""
The pages. Each works without JavaScript; the modules in static/chat/ take over from what stands here.

A form that is sent twice does its work once: a message carries the id that its page was made with.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID, uuid4

from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from apps.accounts.models import User
from apps.accounts.people import Person
from apps.conversations import reads, services
from apps.conversations.errors import BadFrame, ChatError
from apps.conversations.messages import Draft
from apps.conversations.models import Conversation, Membership
from apps.conversations.notifications import MUTES
from apps.conversations.protocol import ConversationOut, clean_content

View = Callable[..., HttpResponse]

MAX_FOUND = 20


def page(*methods: str) -> Callable[[View], View]:
    """A page for people who are logged in; what goes wrong becomes a page with the right status."""

    def decorate(view: View) -> View:
        @wraps(view)
        def shown(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            try:
                return view(request, *args, **kwargs)
            except ChatError as error:
                return problem(request, error)

        return never_cache(login_required(require_http_methods(methods)(shown)))

    return decorate


def problem(request: HttpRequest, error: ChatError, **context: Any) -> HttpResponse:
    response = render(request, "chat/problem.html", {"error": error, **context}, status=error.status)
    if error.retry_after_ms is not None:
        response["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return response


def me(request: HttpRequest) -> Person:
    return Person.of(request.user)  # type: ignore[arg-type]


def _conversations(request: HttpRequest) -> dict[str, Any]:
    """What the list beside every page shows."""
    rows, next_cursor = async_to_sync(reads.conversations_page)(me(request), request.GET.get("cursor"))
    return {"rows": rows, "next_cursor": next_cursor, "unread": sum(row.unread_count for row in rows)}


@page("GET", "HEAD")
def conversations(request: HttpRequest) -> HttpResponse:
    return render(request, "chat/conversations.html", _conversations(request))


# --- one conversation ------------------------------------------------------------------------------------------------
@page("GET", "HEAD", "POST")
def conversation(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    if request.method == "POST":
        return _send(request, conversation_id)
    before = _seq(request.GET.get("before"))
    current: ConversationOut = async_to_sync(reads.conversation)(me(request), conversation_id)
    shown, has_more = async_to_sync(reads.messages_page)(me(request), conversation_id, before_seq=before)
    newest = shown[-1].seq if shown and before is None else current.last_seq
    context = {
        **_conversations(request),
        "current": current,
        "shown": shown,
        "has_more": has_more,
        "is_live": before is None,
        "cursor": newest,
        "first_unread": current.last_read_seq + 1 if current.unread_count else None,
        "client_msg_id": uuid4(),
    }
    return render(request, "chat/conversation.html", context)


def _send(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    text = request.POST.get("content", "").replace("\r\n", "\n")
    client_msg_id = _uuid(request.POST.get("client_msg_id"))
    try:
        # The form may have been sent before: after_seq makes the log look for it everywhere.
        draft = Draft(conversation_id, me(request).id, client_msg_id, clean_content(text), after_seq=0)
        async_to_sync(services.send_message)(draft)
    except ChatError as error:
        return problem(request, error, content=text, client_msg_id=client_msg_id, again=request.path)
    return redirect("conversation", conversation_id)


@page("POST")
def read(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    async_to_sync(services.mark_read)(me(request), conversation_id, _seq(request.POST.get("seq")) or 0)
    return redirect("conversations")


# --- starting one ----------------------------------------------------------------------------------------------------
@page("GET", "HEAD", "POST")
def new(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return _new(request)
    try:
        if request.POST.get("kind") == "group":
            conversation_id = async_to_sync(services.create_group)(
                me(request), request.POST.get("title", ""), _invited(request)
            )
        else:
            username = request.POST.get("username", "")
            conversation_id, _ = async_to_sync(services.direct_conversation)(me(request), username)
    except ChatError as error:
        if error.retry:
            raise
        return _new(request, error)
    return redirect("conversation", conversation_id)


def _new(request: HttpRequest, error: ChatError | None = None) -> HttpResponse:
    text = request.GET.get("q", "").strip()
    context = {
        **_conversations(request),
        "q": text,
        "found": [Person.of(user) for user in User.objects.found_by(text, me(request).id)[:MAX_FOUND]] if text else [],
        "title": request.POST.get("title", ""),
        "people": request.POST.get("people", ""),
        "chosen": request.POST.getlist("person"),
        "error": error,
    }
    return render(request, "chat/new.html", context, status=200 if error is None else error.status)


def _invited(request: HttpRequest) -> list[str]:
    typed = re.split(r"[\s,;]+", request.POST.get("people", ""))
    names = {name.lstrip("@").lower() for name in [*request.POST.getlist("person"), *typed]}
    invited = sorted(names - {"", me(request).username})
    if not invited:
        raise BadFrame("A group needs someone besides yourself.", pointer="/members")
    return invited


# --- its members -----------------------------------------------------------------------------------------------------
@page("GET", "HEAD", "POST")
def members(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    if request.method == "POST":
        try:
            return _change_members(request, conversation_id)
        except ChatError as error:
            if error.retry or (error.status == 404 and "username" not in request.POST):
                raise
            return _members(request, conversation_id, error)
    return _members(request, conversation_id)


def _members(request: HttpRequest, conversation_id: UUID, error: ChatError | None = None) -> HttpResponse:
    current: ConversationOut = async_to_sync(reads.conversation)(me(request), conversation_id)
    role = next(member.role for member in current.members if member.id == me(request).id)
    wishes = async_to_sync(reads.conversation_wishes)(me(request), conversation_id)
    owns = current.kind == Conversation.Kind.GROUP and role == Membership.Role.OWNER
    context = {
        **_conversations(request),
        "current": current,
        "owns": owns,
        "manages": owns or (current.kind == Conversation.Kind.GROUP and role == Membership.Role.ADMIN),
        "username": request.POST.get("username", "") if request.POST.get("action") == "add" else "",
        "error": error,
        "wishes": wishes,
        "muted": wishes.muted_until is not None and timezone.now() < wishes.muted_until,
        "mutes": list(MUTES),
    }
    return render(request, "chat/members.html", context, status=200 if error is None else error.status)


def _change_members(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    person, username = me(request), request.POST.get("username", "")
    match request.POST.get("action"):
        case "rename":
            async_to_sync(services.rename)(person, conversation_id, request.POST.get("title", ""))
        case "add":
            async_to_sync(services.add_member)(person, conversation_id, username.lstrip("@ "))
        case "remove":
            async_to_sync(services.remove_member)(person, conversation_id, username)
        case "leave":
            async_to_sync(services.remove_member)(person, conversation_id, person.username)
            messages.success(request, "You have left the group.")
            return redirect("conversations")
        case "owner" | "admin" | "member" as role:
            async_to_sync(services.change_role)(person, conversation_id, username, role)
        case _:
            raise BadFrame("There is no such action.", pointer="/action")
    return redirect("members", conversation_id)


# --- what comes in ---------------------------------------------------------------------------------------------------
def _seq(text: str | None) -> int | None:
    """Raises BadFrame."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise BadFrame("This is not the number of a message.", pointer="/before")
    return int(text)


def _uuid(text: str | None) -> UUID:
    """Raises BadFrame."""
    try:
        return UUID(text or "")
    except ValueError as error:
        raise BadFrame("The form has lost its id. Load the page again.", pointer="/client_msg_id") from error


urlpatterns = [
    path("", conversations, name="conversations"),
    path("new/", new, name="new"),
    path("c/<uuid:conversation_id>/", conversation, name="conversation"),
    path("c/<uuid:conversation_id>/read/", read, name="read"),
    path("c/<uuid:conversation_id>/members/", members, name="members"),
]

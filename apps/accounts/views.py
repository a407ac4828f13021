"""The settings page: name, sessions, tokens of clients, and the people one has blocked."""

from typing import Any
from uuid import UUID

from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from apps.accounts import services
from apps.accounts.browsers import name_of_browser
from apps.accounts.forms import ProfileForm, TokenForm

MAX_TOKENS = 50


@login_required
@never_cache
@require_GET
def settings_page(request: HttpRequest) -> HttpResponse:
    return _page(request)


@login_required
@never_cache
@require_POST
def change_profile(request: HttpRequest) -> HttpResponse:
    form = ProfileForm(request.POST, instance=request.user)
    if not form.is_valid():
        request.user.refresh_from_db()  # the form has put what was refused on it
        return _page(request, status=400, profile_form=form)
    form.save()
    messages.success(request, "Your name is changed.")
    return redirect("settings")


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: int) -> HttpResponse:
    session = get_object_or_404(UserSession, id=session_id, user=request.user)
    if session.session_key == request.session.session_key:
        logout(request)
        return redirect("account_login")
    services.end_session(session.session_key)
    messages.success(request, "That session is ended.")
    return redirect("settings")


@login_required
@require_POST
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    """Browsers only: a client with a token of its own is not a forgotten window."""
    services.end_browser_sessions(request.user, except_session_key=request.session.session_key)
    messages.success(request, "All other sessions are ended.")
    return redirect("settings")


@login_required
@never_cache
@require_POST
def create_token(request: HttpRequest) -> HttpResponse:
    form = TokenForm(request.POST)
    if form.is_valid() and request.user.api_tokens.count() >= MAX_TOKENS:
        form.add_error("name", f"You have {MAX_TOKENS} tokens already; end one first.")
    if not form.is_valid():
        return _page(request, status=400, token_form=form)
    # Shown in this answer alone, and so not after a redirect, which would have to keep it somewhere.
    return _page(request, new_token=services.issue_token(request.user, form.cleaned_data["name"]))


@login_required
@require_POST
def end_token(request: HttpRequest, token_id: UUID) -> HttpResponse:
    services.end_token(get_object_or_404(request.user.api_tokens, id=token_id))
    messages.success(request, "That token is ended.")
    return redirect("settings")


def _page(request: HttpRequest, status: int = 200, **context: Any) -> HttpResponse:
    sessions = UserSession.objects.purge_and_list(request.user)
    sessions.sort(key=lambda session: session.last_seen_at, reverse=True)
    blocks = request.user.blocks.filter(blocked__is_active=True).select_related("blocked")
    shown = {
        "profile_form": ProfileForm(instance=request.user),
        "token_form": TokenForm(),
        "sessions": [(session, name_of_browser(session.user_agent)) for session in sessions],
        "session_key": request.session.session_key,
        "tokens": request.user.api_tokens.order_by("-created_at"),
        "blocks": blocks.order_by("blocked__username"),
    }
    return render(request, "settings.html", shown | context, status=status)


urlpatterns = [
    path("", settings_page, name="settings"),
    path("profile/", change_profile, name="change_profile"),
    path("sessions/end-others/", end_other_sessions, name="end_other_sessions"),
    path("sessions/<int:session_id>/end/", end_session, name="end_session"),
    path("tokens/", create_token, name="create_token"),
    path("tokens/<uuid:token_id>/end/", end_token, name="end_token"),
]

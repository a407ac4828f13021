"""
Blocking a person from a page, without JavaScript.

It is here and not in accounts because a block changes who may speak in a conversation, which every node remembers.
"""

from asgiref.sync import async_to_sync
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.views.decorators.http import require_POST

from apps.accounts.people import Person
from apps.conversations import services
from apps.conversations.errors import ChatError


@login_required
@require_POST
def block(request: HttpRequest) -> HttpResponse:
    username = request.POST.get("username", "")
    try:
        async_to_sync(services.block)(Person.of(request.user), username)
    except ChatError as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, f"{username.strip()} is blocked: neither of you can write to the other directly.")
    return redirect("settings")


@login_required
@require_POST
def unblock(request: HttpRequest, username: str) -> HttpResponse:
    try:
        async_to_sync(services.unblock)(Person.of(request.user), username)
    except ChatError as error:
        messages.error(request, error.detail)
    else:
        messages.success(request, f"{username} is no longer blocked.")
    return redirect("settings")


urlpatterns = [path("", block, name="block"), path("<str:username>/end/", unblock, name="unblock")]

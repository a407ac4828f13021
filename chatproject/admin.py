"""
The admin site: Django's, with our login, and a page on the nodes that live now.

Logging in goes through the same door as everyone's, so that its rate limits hold here too.
"""

from typing import Any

from allauth.account.decorators import secure_admin_login
from asgiref.sync import async_to_sync
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path
from django.utils.decorators import method_decorator
from redis.exceptions import RedisError

from apps.presence import node
from apps.presence.registry import NodeInfo
from apps.push.models import OutboxTask

# Other libraries register these: their rows hold what opens a session, or confirms an address.
NOT_SHOWN = {"usersessions.usersession", "account.emailconfirmation"}


class ChatAdminSite(AdminSite):
    site_header = site_title = "Chat"
    index_title = "What there is"
    index_template = "admin/chat_index.html"

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        models = [model_or_iterable] if isinstance(model_or_iterable, type) else list(model_or_iterable)
        super().register([each for each in models if each._meta.label_lower not in NOT_SHOWN], admin_class, **options)

    @method_decorator(secure_admin_login)
    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponseBase:
        return super().login(request, extra_context)

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Ours ends the other sessions."""
        return redirect("account_change_password")

    def get_urls(self) -> list[URLResolver | URLPattern]:
        return [path("nodes/", self.admin_view(self.nodes), name="nodes"), *super().get_urls()]

    def nodes(self, request: HttpRequest) -> HttpResponse:
        try:
            nodes = async_to_sync(live_nodes)()
        except (RedisError, OSError):
            nodes = None
        context = self.each_context(request) | {
            "title": "Live nodes",
            "nodes": nodes,
            "connections": sum(each.connections for each in nodes or ()),
            "waiting_pushes": OutboxTask.objects.count(),
        }
        return TemplateResponse(request, "admin/nodes.html", context)


async def live_nodes() -> list[NodeInfo]:
    """Raises RedisError."""
    return await node.current().registry.nodes()

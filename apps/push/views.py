"""What browsers need for notifications that can't be a static file: it has to be at the root to work for all pages."""

from functools import cache
from pathlib import Path

from django.contrib.staticfiles import finders
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.http import require_GET


@require_GET
def service_worker(request: HttpRequest) -> HttpResponse:
    """Looked at again at each visit, so that no browser keeps an old one."""
    return HttpResponse(_script(), "text/javascript; charset=utf-8", headers={"Cache-Control": "no-cache"})


@cache
def _script() -> str:
    return Path(finders.find("chat/sw.js") or "").read_text()


urlpatterns = [path("sw.js", service_worker)]

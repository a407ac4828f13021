"""About this API: its description, its documentation, and what is not in it."""

import json
from functools import cache
from typing import Any

from csp.decorators import csp_update
from django.http import HttpResponse
from django.utils.decorators import method_decorator
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.exceptions import NotFound
from rest_framework.permissions import AllowAny
from rest_framework.request import Request

from apps.conversations.api.view import View


class SchemaView(View):
    open_methods = frozenset({"GET"})
    schema = None

    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(openapi(), content_type="application/json")


@cache
def openapi() -> bytes:
    """The OpenAPI document. It depends on nothing but the code, so it is made once."""
    return json.dumps(SchemaGenerator().get_schema(request=None, public=True)).encode()


# Swagger UI styles its elements from JavaScript; its scripts and style sheets are files of ours.
@method_decorator(csp_update({"style-src": ["'unsafe-inline'"]}), name="dispatch")
class DocsView(SpectacularSwaggerSplitView):
    authentication_classes = []
    permission_classes = [AllowAny]


class NowhereView(View):
    """For every address under /api/ without a view: a problem document, and no login needed to see it."""

    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound("There is nothing at this address.")

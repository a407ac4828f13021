from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from apps.conversations.api.about import NowhereView
from chatproject.readiness import readyz

urlpatterns = [
    path("", include("apps.conversations.views")),
    path("", include("apps.presence.views")),
    path("", include("apps.push.views")),
    path("readyz", readyz),
    path("", include("apps.conversations.notifications")),
    path("settings/blocks/", include("apps.conversations.blocks")),
    path("settings/", include("apps.accounts.views")),
    path("accounts/sessions/", RedirectView.as_view(pattern_name="settings")),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
    path("api/v1/", include("apps.conversations.api.urls")),
    re_path("^api/", NowhereView.as_view()),
]

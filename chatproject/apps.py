from django.contrib.admin.apps import AdminConfig

# Tasks find the application of this process because it is made here, once the settings are there. The package itself
# imports nothing: the supervisor is part of it, and starts before there are settings.
from chatproject.celery import app

__all__ = ["ChatAdminConfig", "app"]


class ChatAdminConfig(AdminConfig):
    default_site = "chatproject.admin.ChatAdminSite"

from importlib import import_module

from django.apps import AppConfig


class PushConfig(AppConfig):
    name = "apps.push"
    label = "push"

    def ready(self) -> None:
        """Who logs out of a device is not told there any more."""
        accounts, push = import_module("apps.accounts.services"), import_module("apps.push.services")
        accounts.on_sessions_ended(push.remove_devices_of_sessions)

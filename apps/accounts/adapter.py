"""Where django-allauth meets our accounts."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.http import HttpRequest

from apps.accounts import services
from apps.accounts.models import User, username_validator

USERNAME_VALIDATORS = [username_validator]


class AccountAdapter(DefaultAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return bool(settings.CHAT_REGISTRATION_OPEN)

    def clean_username(self, username: str, shallow: bool = False) -> str:
        return super().clean_username(username.lower(), shallow)

    def set_password(self, user: User, password: str) -> None:
        request = self.request
        current = request.session.session_key if request is not None and request.user.is_authenticated else None
        services.set_password(user, password, keep_session_key=current)

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        user.display_name = form.cleaned_data["display_name"]
        return super().save_user(request, user, form, commit)

"""How REST knows its callers: `Authorization: Bearer TOKEN`, or a browser's session together with its CSRF token."""

from rest_framework import authentication
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from apps.accounts.identity import digest_of
from apps.accounts.models import ApiToken, User


class BearerAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, token = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        found = ApiToken.objects.filter(digest=digest_of(token.strip())).select_related("user").first()
        if found is None or not found.user.is_active:
            raise AuthenticationFailed("This token is not, or no longer, valid.")
        return found.user, found

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionAuthentication(authentication.SessionAuthentication):
    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except PermissionDenied as error:
            raise PermissionDenied(str(error.detail), code="csrf_failed") from error

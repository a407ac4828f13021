"""
Who opens a WebSocket, and whether they still may hold it.

A browser brings its session cookie, and must then come from one of our own pages: browsers send cookies along with
whatever a foreign page opens, and only the Origin header tells the difference. Any other client brings a token.
"""

import hashlib
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

import msgspec
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.models import Session
from django.http import parse_cookie
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from apps.accounts.models import ApiToken, User
from apps.accounts.people import Person


class Identity(msgspec.Struct, frozen=True):
    person: Person
    session_id: str  # "s-…" a browser session, "t-…" a token; tells nothing about the secret
    is_staff: bool


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def session_id_of(session_key: str) -> str:
    return f"s-{digest_of(session_key)[:32]}"


def identify(scope: Mapping[str, Any]) -> Identity | None:
    """Whose handshake this is, by its headers alone (never the URL); None: refuse it. Uses the database."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if "authorization" in headers:
        return _by_token(headers["authorization"])
    if headers.get("origin") not in settings.CHAT_ORIGINS:
        return None
    return _by_session(headers.get("cookie", ""))


def ended(identities: Collection[Identity]) -> set[str]:
    """Those of these sessions that no longer hold. Uses the database."""
    ids = {identity.person.id for identity in identities}
    users = {user.id: user for user in User.objects.filter(id__in=ids, is_active=True)}
    tokens = ApiToken.objects.filter(user_id__in=users).values_list("id", flat=True)
    holding = {f"t-{token_id.hex}" for token_id in tokens}
    owners = dict(UserSession.objects.filter(user_id__in=users).values_list("session_key", "user_id"))
    for session in Session.objects.filter(session_key__in=owners, expire_date__gt=timezone.now()):
        if _is_session_of(users[owners[session.session_key]], session.get_decoded()):
            holding.add(session_id_of(session.session_key))
    return {identity.session_id for identity in identities if identity.session_id not in holding}


def _is_session_of(user: User, session: Mapping[str, Any]) -> bool:
    # A password change makes this hash another one, in every session but the one it was made in.
    return constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash())


def _by_token(header: str) -> Identity | None:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.isascii():
        return None
    found = (
        ApiToken.objects.filter(digest=digest_of(token.strip()), user__is_active=True).select_related("user").first()
    )
    return None if found is None else Identity(Person.of(found.user), found.session_id, found.user.is_staff)


def _by_session(cookie_header: str) -> Identity | None:
    key = parse_cookie(cookie_header).get(settings.SESSION_COOKIE_NAME)
    if not key or not (key.isascii() and key.isalnum()):
        return None
    session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user_id = session.get(SESSION_KEY)
    if user_id is None or session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    user = User.objects.filter(id=user_id, is_active=True).first()
    if user is None or not _is_session_of(user, session):
        return None
    return Identity(Person.of(user), session_id_of(key), user.is_staff)

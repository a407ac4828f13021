"""
Who opens a WebSocket, and whether they still may hold it.

A browser brings its session cookie, and must then come from one of our own pages: browsers send cookies along with
whatever a foreign page opens, and only the Origin header tells the difference. Any other client brings a token.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
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


def identify(scopes: Sequence[Mapping[str, Any]]) -> list[Identity | None]:
    """
    Whose handshakes these are, by their headers alone (never the URL); None: refuse it. Uses the database.

    However many there are, it is at most three questions.
    """
    shown = [_shown(scope) for scope in scopes]
    tokens = _by_token({digest for digest, _ in shown if digest})
    sessions = _by_session({key for _, key in shown if key})
    return [tokens.get(digest) or sessions.get(key) for digest, key in shown]


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


def _shown(scope: Mapping[str, Any]) -> tuple[str, str]:
    """The digest of a token, or else the key of a session, where either can be one; "" is none."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if "authorization" in headers:
        scheme, _, token = headers["authorization"].partition(" ")
        return (digest_of(token.strip()) if scheme.lower() == "bearer" and token.isascii() else ""), ""
    if headers.get("origin") not in settings.CHAT_ORIGINS:
        return "", ""
    key = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME) or ""
    return "", key if key.isascii() and key.isalnum() else ""


def _by_token(digests: Collection[str]) -> dict[str, Identity]:
    tokens = ApiToken.objects.filter(digest__in=digests, user__is_active=True).select_related("user")
    return {token.digest: Identity(Person.of(token.user), token.session_id, token.user.is_staff) for token in tokens}


def _by_session(keys: Collection[str]) -> dict[str, Identity]:
    rows = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    sessions = {row.session_key: row.get_decoded() for row in rows}
    owners = {
        key: session[SESSION_KEY]
        for key, session in sessions.items()
        if SESSION_KEY in session and session.get(BACKEND_SESSION_KEY) in settings.AUTHENTICATION_BACKENDS
    }
    users = {str(user.id): user for user in User.objects.filter(id__in=set(owners.values()), is_active=True)}
    return {
        key: Identity(Person.of(users[owner]), session_id_of(key), users[owner].is_staff)
        for key, owner in owners.items()
        if owner in users and _is_session_of(users[owner], sessions[key])
    }

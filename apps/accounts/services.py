"""What changes an account. Whatever ends a session also closes its sockets, on every node."""

import logging
import secrets
from collections.abc import Callable, Collection
from importlib import import_module
from uuid import UUID

from allauth.usersessions.models import UserSession
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.db import IntegrityError, transaction
from redis.exceptions import RedisError

from apps.accounts.identity import digest_of
from apps.accounts.models import ApiToken, Block, User

logger = logging.getLogger(__name__)

NODES_GROUP = "nodes"
ENDED, BANNED = 4401, 4403  # close codes


_on_sessions_ended: list[Callable[[Collection[str]], None]] = []


def on_sessions_ended(handler: Callable[[Collection[str]], None]) -> None:
    """Have `handler` called with the ids of sessions that have ended, in the process in which they did."""
    _on_sessions_ended.append(handler)


def sign_up(username: str, password: str, display_name: str) -> User:
    """Raises django's ValidationError, with the field's name as its key."""
    user = User(username=username.lower(), display_name=display_name.strip() or username)
    user.full_clean(exclude=["password"])
    validate_password(password, user)
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError:
        user.validate_unique()  # somebody took the name since it was checked
        raise
    return user


def issue_token(user: User, name: str = "") -> str:
    """A new token. This is the only time that it can be seen."""
    token = secrets.token_urlsafe(32)
    ApiToken.objects.create(user=user, digest=digest_of(token), name=name[:64])
    return token


def end_token(token: ApiToken) -> None:
    session_id = token.session_id
    token.delete()
    announce_ended(session_ids=[session_id])


def end_session(session_key: str) -> None:
    UserSession.objects.filter(session_key=session_key).delete()
    import_module(settings.SESSION_ENGINE).SessionStore(session_key).delete()


def end_all_sessions(user: User, *, except_session_key: str | None = None) -> None:
    """All browser sessions and tokens, but for the session that asks."""
    for token in user.api_tokens.all():
        end_token(token)
    end_browser_sessions(user, except_session_key=except_session_key)


def end_browser_sessions(user: User, *, except_session_key: str | None = None) -> None:
    sessions = UserSession.objects.filter(user=user).exclude(session_key=except_session_key or "")
    for key in list(sessions.values_list("session_key", flat=True)):
        end_session(key)


def deactivate(user: User) -> None:
    """Nothing of theirs works from now on; what they said stays."""
    with transaction.atomic():
        User.objects.filter(id=user.id).update(is_active=False)
    user.is_active = False
    announce_ended(user_id=user.id, code=BANNED)
    end_all_sessions(user)


def reactivate(user: User) -> None:
    user.is_active = True
    user.save(update_fields=["is_active"])


def set_password(user: User, password: str, *, keep_session_key: str | None = None) -> None:
    """A new password ends whatever the old one opened, but for the session in which it was changed."""
    user.set_password(password)
    user.save(update_fields=["password"])
    end_all_sessions(user, except_session_key=keep_session_key)


def block(blocker_id: UUID, blocked_id: UUID) -> None:
    Block.objects.get_or_create(blocker_id=blocker_id, blocked_id=blocked_id)


def unblock(blocker_id: UUID, blocked_id: UUID) -> None:
    Block.objects.filter(blocker_id=blocker_id, blocked_id=blocked_id).delete()


def announce_ended(*, session_ids: Collection[str] = (), user_id: UUID | None = None, code: int = ENDED) -> None:
    """Let every node close the sockets of these sessions, or of this user. A node that misses it looks by itself."""
    for handler in _on_sessions_ended:
        handler(session_ids)
    message = {
        "type": "sessions.ended",
        "sessions": list(session_ids),
        "user_id": None if user_id is None else str(user_id),
        "code": code,
    }
    try:
        async_to_sync(get_channel_layer().group_send)(NODES_GROUP, message)
    except (RedisError, OSError) as error:
        logger.warning("the end of a session was not announced: %s", error)

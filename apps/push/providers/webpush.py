"""
Web Push (RFC 8030): encrypted for one browser (RFC 8291), signed by this chat (RFC 8292), sent to where that browser
said.

What the service worker gets is the push as JSON; sw.js reads it.
"""

import base64
import http.client
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from django.core.exceptions import ImproperlyConfigured
from pywebpush import WebPusher

from apps.push import vapid
from apps.push.notification import Push
from apps.push.providers.base import Outcome, Result
from apps.push.providers.outside import Answer, NotPublic, Outside
from apps.push.providers.wire import MAX_BODY_CHARS, MAX_TITLE_CHARS, retry_after, shortened
from apps.push.subscription import BadSubscription, Subscription

MAX_TTL = timedelta(days=28)
APPLE = ".push.apple.com"
# Only they can tell us that our key is wrong. Anybody can register an endpoint of their own, which answers as it likes.
WELL_KNOWN = (".fcm.googleapis.com", ".updates.push.services.mozilla.com", APPLE, ".notify.windows.com")


# --- what is sent ----------------------------------------------------------------------------------------------------
class Payload(msgspec.Struct, frozen=True):
    """For sw.js."""

    push_id: UUID
    kind: str
    conversation_id: UUID
    seq: int
    title: str
    body: str
    path: str
    badge: int
    count: int


def payload_of(push: Push) -> bytes:
    """Less than a push service has to take. A character is at most 6 bytes of JSON."""
    payload = msgspec.convert(push, Payload, from_attributes=True)
    title, body = shortened(push.title, MAX_TITLE_CHARS), shortened(push.body, MAX_BODY_CHARS)
    return msgspec.json.encode(msgspec.structs.replace(payload, title=title, body=body))


def headers_of(push: Push, origin: str, now: datetime) -> dict[str, str]:
    lifetime = min(max(push.expires_at - now, timedelta(0)), MAX_TTL)
    return {
        "Authorization": vapid.authorization(origin),
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/octet-stream",
        "TTL": str(int(lifetime.total_seconds())),
        # A newer push of the same conversation replaces one that the service still holds.
        "Topic": base64.urlsafe_b64encode(push.conversation_id.bytes).rstrip(b"=").decode(),
        "Urgency": "high" if push.kind == "message" else "low",
    }


# --- what came of it -------------------------------------------------------------------------------------------------
def result_of(answer: Answer, host: str, now: datetime) -> Result:
    error = f"{answer.status} {_printable(answer.text)}".strip()
    wait = retry_after(answer.headers.get("retry-after", ""), now)
    match answer.status:
        case 200 | 201 | 202 | 204:
            return Result(Outcome.ACCEPTED, provider_id=_name_of(answer))
        case 404 | 410:
            return Result(Outcome.UNREGISTERED, error=error)
        case 401 | 403 if f".{host}".endswith(WELL_KNOWN):
            return Result(Outcome.MISCONFIGURED, error=error)
        case 408 | 429:
            return Result(Outcome.RETRY, error=error, retry_after=wait)
        case status if status >= 500:
            return Result(Outcome.RETRY, error=error, retry_after=wait)
    return Result(Outcome.REJECTED, error=error)


def _name_of(answer: Answer) -> str:
    """Apple says an id; others say where the message is, of which the last part names it."""
    name = answer.headers.get("apns-id") or answer.headers.get("location", "").rpartition("/")[2]
    return _printable(name)


def _printable(text: str) -> str:
    return re.sub(r"[^ -~]+", " ", text)[:200].strip()


class WebPush:
    name = "webpush"

    def __init__(self) -> None:
        if not vapid.public_key():
            raise ImproperlyConfigured("WEBPUSH_PRIVATE_KEY is missing")
        self._outside = Outside()

    def send(self, token: str, push: Push) -> Result:
        try:
            subscription = Subscription.of(token)
        except BadSubscription as error:
            return Result(Outcome.UNREGISTERED, error=str(error))
        if push.kind == "clear" and subscription.host.endswith(APPLE):
            return Result(Outcome.ACCEPTED, error="not sent: Safari ends a subscription whose pushes show nothing")
        now = datetime.now(UTC)
        body = WebPusher(msgspec.to_builtins(subscription)).encode(payload_of(push))["body"]
        headers = headers_of(push, subscription.origin, now)
        try:
            answer = self._outside.post(subscription.host, subscription.port, subscription.path, body, headers)
        except NotPublic as error:
            return Result(Outcome.REJECTED, error=str(error))
        except (OSError, http.client.HTTPException) as error:
            return Result(Outcome.RETRY, error=_printable(f"{type(error).__name__}: {error}"))
        result = result_of(answer, subscription.host, now)
        # Some services repeat the address in what they say, and the address is the token.
        return msgspec.structs.replace(result, error=result.error.replace(subscription.path, "…"))

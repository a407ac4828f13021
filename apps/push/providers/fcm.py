"""
FCM, for Android: pyfcm's HTTP v1, with what is ours to decide taken out of its hands.

Of its own it sleeps for as long as Retry-After says, tries again in the same call, asks for an access token per thread
and tells errors apart by status alone. Here a call is one request (two when the access token was refused), bounded in
time, and FCM's own error code decides; when to try again is the task's business.

A token is only given up for UNREGISTERED. INVALID_ARGUMENT may be the token's fault or ours, and SENDER_ID_MISMATCH
may be a service account of the wrong project: a mistake of ours must not empty the device table.
"""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import google.auth.transport.requests
import msgspec
import requests
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.oauth2 import service_account
from pyfcm import FCMNotification
from requests.adapters import HTTPAdapter

from apps.push.notification import Push
from apps.push.providers.base import Outcome, Result
from apps.push.providers.wire import MAX_BODY_CHARS, MAX_TITLE_CHARS, retry_after, shortened

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
MAX_TTL = timedelta(days=28)
WITHOUT_RETRY_AFTER = timedelta(minutes=1)  # what Google asks for after a 429 that does not say
CALL_S = 12.0  # for all of a call, the access token included
CONNECT_S = 3.0
MAX_CONNECTIONS = 100  # that are kept; one per thread is used


# --- what is sent ----------------------------------------------------------------------------------------------------
def message_of(push: Push, now: datetime) -> dict[str, Any]:
    """Arguments of pyfcm's `notify`."""
    conversation = str(push.conversation_id)
    lifetime = min(max(push.expires_at - now, timedelta(0)), MAX_TTL)
    android: dict[str, Any] = {"collapse_key": conversation, "ttl": f"{int(lifetime.total_seconds())}s"}
    data = {
        "kind": push.kind,
        "push_id": str(push.push_id),
        "conversation_id": conversation,
        "seq": str(push.seq),
        "path": push.path,
        "badge": str(push.badge),
        "count": str(push.count),
    }
    if push.kind == "clear":  # the app takes the notification away by itself: nothing to show, and no hurry
        return {"data_payload": data, "android_config": {**android, "priority": "NORMAL"}}
    shown = {"tag": conversation, "notification_count": push.badge}
    return {
        "notification_title": shortened(push.title, MAX_TITLE_CHARS),
        "notification_body": shortened(push.body, MAX_BODY_CHARS),
        "data_payload": data,
        "android_config": {**android, "priority": "HIGH", "notification": shown},
    }


# --- what came of it -------------------------------------------------------------------------------------------------
def result_of(status: int, retry_after_header: str, body: bytes, now: datetime) -> Result:
    said = _decoded(body)
    if status == 200:
        name = said.get("name")
        if isinstance(name, str):
            return Result(Outcome.ACCEPTED, provider_id=name)
        return Result(Outcome.RETRY, error="200 without a name: not FCM")
    code, error = _code_of(said), _described(status, said)
    match status, code:
        case 404, "UNREGISTERED":
            return Result(Outcome.UNREGISTERED, error=error)
        case (400, _) | (403, "SENDER_ID_MISMATCH"):
            return Result(Outcome.REJECTED, error=error)
        case (401 | 403 | 404, _):  # access, permission, project or address: nobody gets anything
            return Result(Outcome.MISCONFIGURED, error=error)
        case (429, _):
            wait = retry_after(retry_after_header, now) or WITHOUT_RETRY_AFTER
            return Result(Outcome.RETRY, error=error, retry_after=wait)
    if status in (408, 425) or status >= 500:
        return Result(Outcome.RETRY, error=error, retry_after=retry_after(retry_after_header, now))
    if 300 <= status < 400:  # not followed: FCM does not redirect, so this is another place
        return Result(Outcome.MISCONFIGURED, error=error)
    return Result(Outcome.REJECTED, error=error)


class _Detail(msgspec.Struct, frozen=True):
    errorCode: str = ""
    reason: str = ""
    fieldViolations: list[dict[str, Any]] = []


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _error_of(said: dict[str, Any]) -> dict[str, Any]:
    error = said.get("error")
    return error if isinstance(error, dict) else {}


def _details_of(said: dict[str, Any]) -> list[_Detail]:
    try:
        return msgspec.convert(_error_of(said).get("details", []), list[_Detail])
    except msgspec.ValidationError:
        return []


def _code_of(said: dict[str, Any]) -> str:
    """FCM's own code. Only it can say that a token is dead: any Google address answers 404."""
    return next((detail.errorCode for detail in _details_of(said) if detail.errorCode), "")


def _described(status: int, said: dict[str, Any]) -> str:
    """Codes and names of fields, and no values: one of them is the token."""
    words = [str(status), _code_of(said) or str(_error_of(said).get("status", ""))[:50]]
    for detail in _details_of(said):
        words += [detail.reason, *(str(violation.get("field", "")) for violation in detail.fieldViolations)]
    return " ".join(word for word in words if word)[:200]


# --- the way there ---------------------------------------------------------------------------------------------------
class _AskOnce(google.auth.transport.requests.Request):
    """google-auth would sleep and ask again when the token endpoint is busy."""

    def __init__(self, session: requests.Session, deadline: float) -> None:
        super().__init__(session)
        self._deadline = deadline

    def __call__(self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any) -> Any:
        response = super().__call__(url, method, body, headers, timeout=_timeouts(self._deadline))
        if response.status in (408, 429) or response.status >= 500:
            raise TransportError(f"token endpoint: {response.status}")
        return response


def _timeouts(deadline: float) -> tuple[float, float]:
    """To connect, and between two bytes."""
    left = max(deadline - time.monotonic(), 0.001)
    return min(CONNECT_S, left), left


class _Client(FCMNotification):
    def __init__(self, credentials: service_account.Credentials) -> None:
        adapter = HTTPAdapter(max_retries=0, pool_maxsize=MAX_CONNECTIONS)
        super().__init__(credentials=credentials, adapter=adapter)
        self.FCM_END_POINT_BASE = settings.FCM_ENDPOINT.rstrip("/")
        self._access = threading.Lock()
        # Proxies and authorities, once: a session of requests would look for them, and into .netrc, at each request.
        self._surroundings = requests.Session().merge_environment_settings(self.fcm_end_point, {}, None, None, None)

    @property
    def requests_session(self) -> requests.Session:
        """One per thread, as they are not safe to share; their connections are in the one adapter."""
        session: requests.Session | None = getattr(self.thread_local, "session", None)
        if session is None:
            session = self.thread_local.session = requests.Session()
            session.mount("http://", self.custom_adapter)
            session.mount("https://", self.custom_adapter)
            session.trust_env = False
            session.proxies, session.verify = self._surroundings["proxies"], self._surroundings["verify"]
        return session

    def send_request(self, payload: bytes, timeout: float) -> requests.Response:
        """Raises RequestException, and GoogleAuthError when no access token is to be had."""
        deadline = time.monotonic() + timeout
        access = self._access_token(deadline)
        response = self._post(payload, access, deadline)
        if response.status_code == 401 and _code_of(_decoded(response.content)) != "THIRD_PARTY_AUTH_ERROR":
            response = self._post(payload, self._access_token(deadline, refused=access), deadline)
        return response

    def parse_response(self, response: requests.Response) -> Result:
        header = response.headers.get("Retry-After", "")
        return result_of(response.status_code, header, response.content, datetime.now(UTC))

    def _post(self, payload: bytes, access: str, deadline: float) -> requests.Response:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {access}"}
        return self.requests_session.post(
            self.fcm_end_point, data=payload, headers=headers, timeout=_timeouts(deadline), allow_redirects=False
        )

    def _access_token(self, deadline: float, refused: str = "") -> str:
        """One for all threads, and another one when it is about to expire or was `refused`."""
        if not self._access.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TransportError("token endpoint: no answer yet")
        try:
            if not self.credentials.valid or self.credentials.token == refused:
                with requests.Session() as session:
                    self.credentials.refresh(_AskOnce(session, deadline))
            return str(self.credentials.token)
        finally:
            self._access.release()


class Fcm:
    name = "fcm"

    def __init__(self) -> None:
        self._client = _Client(_credentials())

    def send(self, token: str, push: Push) -> Result:
        message = message_of(push, datetime.now(UTC))
        try:
            result: Result = self._client.notify(fcm_token=token, timeout=CALL_S, **message)
        except RefreshError as error:
            outcome = Outcome.RETRY if error.retryable else Outcome.MISCONFIGURED
            return Result(outcome, error=_words_of(error))
        except (requests.RequestException, GoogleAuthError) as error:
            return Result(Outcome.RETRY, error=_words_of(error))
        return result


def _words_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _credentials() -> service_account.Credentials:
    path = settings.FCM_SERVICE_ACCOUNT_FILE
    try:
        with open(path, encoding="utf-8") as file:
            account: dict[str, Any] = msgspec.json.decode(file.read(), type=dict[str, Any])
        if settings.FCM_TOKEN_URI:
            account["token_uri"] = settings.FCM_TOKEN_URI
        credentials = service_account.Credentials.from_service_account_info(account, scopes=[SCOPE])
    except OSError as error:
        raise ImproperlyConfigured(f"FCM_SERVICE_ACCOUNT_FILE {path!r} can't be read: {error.strerror}") from error
    except (ValueError, GoogleAuthError) as error:
        raise ImproperlyConfigured(f"FCM_SERVICE_ACCOUNT_FILE {path!r} is no service account's key") from error
    if not credentials.project_id:
        raise ImproperlyConfigured(f"FCM_SERVICE_ACCOUNT_FILE {path!r} names no project_id")
    return credentials

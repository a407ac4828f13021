"""
Google on 127.0.0.1: the OAuth token endpoint (RFC 7523) and FCM's HTTP v1, true to what they document.

It gives access tokens for assertions that its own service account signed, refuses messages that FCM would refuse, and
answers otherwise when a test says so: the next request (`answers`), each one for a token (`answers_to`), or all
(`always`). `arrived` holds every message that it saw, accepted or not, in order.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.push_servers.serving import Serving

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
AUDIENCE = "https://oauth2.googleapis.com/token"  # whatever the address: google-auth always names this one
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
MAX_PAYLOAD_BYTES = 4_096

# FCM's own codes: https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
ERRORS = {
    "UNSPECIFIED_ERROR": (500, "UNKNOWN", "Unknown error."),
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"),
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Messages sent'."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
}


@dataclass
class Answer:
    """What the server does instead of accepting a message."""

    status: int = 200
    body: dict[str, Any] | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0  # before the answer; the message counts as accepted when `status` is 200
    silent: bool = False  # no answer, until the other side is gone
    cut: bool = False  # a reset instead of an answer


@dataclass(frozen=True)
class Arrived:
    token: str
    message: dict[str, Any]
    status: int  # what it was answered
    name: str  # what FCM calls the accepted message


def error(code: str, **headers: str) -> Answer:
    """One of FCM's own."""
    status, canonical, text = ERRORS[code]
    return google_error(status, canonical, text, [{"@type": FCM_ERROR, "errorCode": code}], **headers)


def google_error(status: int, canonical: str, text: str, details: list[dict[str, Any]], **headers: str) -> Answer:
    """One of those that every Google API has."""
    said = {"code": status, "message": text, "status": canonical, "details": details}
    return Answer(status, {"error": said}, {name.replace("_", "-"): value for name, value in headers.items()})


def bad_request(name: str, why: str) -> Answer:
    details = [{"@type": BAD_REQUEST, "fieldViolations": [{"field": name, "description": why}]}]
    return google_error(400, "INVALID_ARGUMENT", f"Invalid value at '{name}', {why}", details)


@cache
def _key() -> rsa.RSAPrivateKey:
    """Made once per run: it takes a while."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


class Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class FcmServer(Serving):
    def __init__(self, directory: Path, project: str = "chat-test") -> None:
        super().__init__(lambda: _Connection(self))
        self.project = project
        self.directory = directory
        self.clock: Callable[[], float] = time.time
        self.answer_time_s = 0.0
        self.arrived: Queue[Arrived] = Queue()
        self.requests = 0
        self.connections = 0
        self.answers: list[Answer] = []
        self.answers_to: dict[str, list[Answer]] = {}
        self.always: Answer | None = None
        self.oauth_answers: list[Answer] = []
        self.oauth_requests = 0
        self._access: dict[str, float] = {}  # token -> when it ends
        self._key = _key()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """Of the environment, for a chat server that is to use this one."""
        return {
            "FCM_SERVICE_ACCOUNT_FILE": str(self.service_account()),
            "FCM_ENDPOINT": f"{self.origin}/v1/projects",
            "FCM_TOKEN_URI": f"{self.origin}/token",
        }

    def service_account(self) -> Path:
        """The file that a Firebase console would give."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.directory / "service-account.json"
        account = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "key-1",
            "private_key": pem.decode(),
            "client_email": self._email,
            "client_id": "1",
            "token_uri": AUDIENCE,
        }
        path.write_text(json.dumps(account))
        return path

    def revoke_access(self) -> None:
        """No access token that was given until now is worth anything."""
        self._access.clear()

    def wait(self, seconds: float = 20) -> Arrived:
        """The next message that it saw; queue.Empty when there is none in time."""
        return self.arrived.get(timeout=seconds)

    @property
    def _email(self) -> str:
        return f"chat@{self.project}.iam.gserviceaccount.com"

    # --- OAuth -------------------------------------------------------------------------------------------------------
    def give_access(self, body: bytes) -> Answer:
        self.oauth_requests += 1
        if self.oauth_answers:
            return self.oauth_answers.pop(0)
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if form.get("grant_type") != JWT_BEARER:
            return Answer(400, {"error": "unsupported_grant_type"})
        try:
            claims = jwt.decode(
                form.get("assertion", ""),
                self._key.public_key(),
                algorithms=["RS256"],
                audience=AUDIENCE,
                issuer=self._email,
                options={"require": ["iss", "aud", "exp", "iat"]},
            )
        except jwt.InvalidTokenError as problem:
            return Answer(400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {problem}"})
        if claims.get("scope") != SCOPE or claims["exp"] - claims["iat"] > 3_600:
            return Answer(400, {"error": "invalid_scope"})
        access = f"ya29.{secrets.token_urlsafe(32)}"
        self._access[access] = self.clock() + 3_599
        return Answer(200, {"access_token": access, "expires_in": 3_599, "token_type": "Bearer"})

    # --- FCM ---------------------------------------------------------------------------------------------------------
    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        self.requests += 1
        try:
            self._check_access(headers.get("authorization", ""))
            if path != f"/v1/projects/{self.project}/messages:send":
                raise Refused(google_error(404, "NOT_FOUND", "Requested entity was not found.", []))
            message = _checked(headers, body)
        except Refused as refusal:
            return refusal.answer
        answer = self._answer_to(message["token"])
        name = f"projects/{self.project}/messages/0:{secrets.token_hex(8)}" if answer.status == 200 else ""
        if name and not answer.body:
            answer = Answer(200, {"name": name}, answer.headers, answer.delay_s, answer.silent, answer.cut)
        self.arrived.put(Arrived(message["token"], message, answer.status, name))
        return answer

    def _answer_to(self, token: str) -> Answer:
        if self.answers_to.get(token):
            return self.answers_to[token].pop(0)
        if self.answers:
            return self.answers.pop(0)
        return self.always or Answer(delay_s=self.answer_time_s)

    def _check_access(self, authorization: str) -> None:
        ends = self._access.get(authorization.removeprefix("Bearer "))
        if ends is None or ends < self.clock():
            reason = {"@type": ERROR_INFO, "reason": "ACCESS_TOKEN_EXPIRED", "domain": "googleapis.com"}
            text = "Request had invalid authentication credentials."
            raise Refused(google_error(401, "UNAUTHENTICATED", text, [reason]))


def _checked(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Raises Refused for what FCM's parser refuses: unknown names and wrong types."""
    if not headers.get("content-type", "").startswith("application/json"):
        raise Refused(bad_request("content-type", "not JSON"))
    try:
        request = json.loads(body)
    except ValueError as problem:
        raise Refused(bad_request("body", str(problem))) from problem
    _only(request, "request", {"message": dict, "validate_only": bool})
    message: dict[str, Any] = request["message"]
    _only(message, "message", {"token": str, "notification": dict, "data": dict, "android": dict})
    _only(message.get("notification", {}), "message.notification", {"title": str, "body": str, "image": str})
    for name, value in message.get("data", {}).items():
        if not isinstance(value, str) or re.match(r"from$|gcm|google|message_type$|collapse_key$", name):
            raise Refused(bad_request(f"message.data[{name}]", "reserved, or not a string"))
    android = message.get("android", {})
    _only(android, "message.android", {"collapse_key": str, "priority": str, "ttl": str, "notification": dict})
    if android.get("priority", "NORMAL") not in ("NORMAL", "HIGH"):
        raise Refused(bad_request("message.android.priority", "no such priority"))
    if not re.fullmatch(r"\d{1,7}(\.\d{1,9})?s", android.get("ttl", "0s")):
        raise Refused(bad_request("message.android.ttl", "Illegal duration format"))
    shown = {"tag": str, "notification_count": int, "channel_id": str, "click_action": str, "visibility": str}
    _only(android.get("notification", {}), "message.android.notification", shown)
    content = {name: message.get(name, {}) for name in ("notification", "data")}
    if len(json.dumps(content, ensure_ascii=False).encode()) > MAX_PAYLOAD_BYTES:
        answer = error("INVALID_ARGUMENT")
        assert isinstance(answer.body, dict)
        answer.body["error"]["message"] = "Android message is too big"
        raise Refused(answer)
    return message


def _only(given: Any, where: str, allowed: dict[str, type]) -> None:
    if not isinstance(given, dict):
        raise Refused(bad_request(where, "not an object"))
    for name, value in given.items():
        if not isinstance(value, allowed.get(name, type(None))):
            raise Refused(bad_request(f"{where}.{name}", "Cannot find field, or of another type"))


class _Connection(asyncio.Protocol):
    """As much of HTTP/1.1 as a client needs that sends a body with a length, and keeps the connection."""

    def __init__(self, server: FcmServer) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections += 1
        self._server.connected(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.disconnected(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        path = first.split(" ")[1]
        body = rest[:length]
        answer = self._server.give_access(body) if path == "/token" else self._server.take(path, headers, body)
        self._server.loop.call_later(answer.delay_s, self._give, answer)

    def _give(self, answer: Answer) -> None:
        if answer.silent:
            return
        if answer.cut:
            self._transport.abort()
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        lines = [f"HTTP/1.1 {answer.status} -", f"Content-Length: {len(body)}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)

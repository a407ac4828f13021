"""
Apple on 127.0.0.1: APNs over TLS and HTTP/2, true to what Apple documents.

It speaks h2 by ALPN alone, lets one stream through until it has seen a good provider token, checks the token (ES256,
team, key, age, and that it does not change too often) and every apns-* header. It answers otherwise when a test says
so: the next request (`answers`), each one for a token (`answers_to`), or all (`always`). `arrived` holds every
notification that it saw, accepted or not, in order.
"""

import asyncio
import json
import re
import ssl
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.push_servers.certificates import certificate_in
from tests.push_servers.serving import Serving

MAX_PAYLOAD_BYTES = 4_096
MAX_AGE_S = 3_600
MIN_UPDATE_S = 20 * 60
PUSH_TYPES = ("alert", "background", "voip", "complication", "fileprovider", "mdm", "location", "liveactivity")

# https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
REASONS = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "BadEnvironmentKeyIdInToken": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}


@dataclass
class Answer:
    """What the server does instead of accepting a notification."""

    reason: str = ""  # one of REASONS; empty: 200
    timestamp_ms: int | None = None  # of a 410
    status: int = 0  # instead of the one of the reason
    body: bytes | None = None  # instead of the documented one
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0
    silent: bool = False  # no answer, and no acknowledgement of pings
    reset: bool = False  # RST_STREAM
    goaway: bool = False  # GOAWAY without an error, and the connection closes
    cut: bool = False  # the connection is reset


@dataclass(frozen=True)
class Arrived:
    token: str
    payload: dict[str, Any]
    headers: dict[str, str]
    status: int  # what it was answered
    apns_id: str


class Refused(Exception):
    pass


class ApnsServer(Serving):
    team_id, key_id, topic = "TEAM123456", "KEY1234567", "org.example.chat"

    def __init__(self, directory: Path, max_streams: int = 1_000) -> None:
        self.certificate = certificate_in(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate.certificate, self.certificate.key)
        context.set_alpn_protocols(["h2"])
        super().__init__(lambda: _Connection(self), context)
        self.tls = context
        self.max_streams = max_streams
        self.clock: Callable[[], float] = time.time
        self.answer_time_s = 0.0
        self.arrived: Queue[Arrived] = Queue()
        self.requests = 0
        self.connections = 0
        self.most_open = 0  # streams at once, of one connection
        self.answers: list[Answer] = []
        self.answers_to: dict[str, list[Answer]] = {}
        self.always: Answer | None = None
        self.provider_tokens: list[str] = []  # that were seen, each once
        self._seen_at: dict[str, float] = {}
        self._issued_at: dict[str, float] = {}
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.key_file = directory / "AuthKey.p8"
        self.key_file.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    @property
    def settings(self) -> dict[str, str]:
        """Of the environment, for a chat server that is to use this one."""
        return {
            "APNS_KEY_FILE": str(self.key_file),
            "APNS_KEY_ID": self.key_id,
            "APNS_TEAM_ID": self.team_id,
            "APNS_TOPIC": self.topic,
            "APNS_HOST": "127.0.0.1",
            "APNS_PORT": str(self.port),
            "APNS_CA_FILE": str(self.certificate.certificate),
        }

    def wait(self, seconds: float = 20) -> Arrived:
        """The next notification that it saw; queue.Empty when there is none in time."""
        return self.arrived.get(timeout=seconds)

    def goaway(self) -> None:
        """To every connection, as before maintenance."""
        self.loop.call_soon_threadsafe(
            lambda: [transport.get_protocol().say_goodbye() for transport in list(self._transports)]  # type: ignore[attr-defined]
        )

    # --- what it checks ----------------------------------------------------------------------------------------------
    def take(self, headers: dict[str, str], body: bytes) -> tuple[Answer, str]:
        self.requests += 1
        apns_id = headers.get("apns-id", str(uuid.uuid4())).upper()
        try:
            token = self._check(headers, body)
        except Refused as refusal:
            return Answer(str(refusal)), apns_id
        answer = self._answer_to(token)
        status = answer.status or REASONS.get(answer.reason, 200)
        self.arrived.put(Arrived(token, json.loads(body), headers, status, apns_id))
        return answer, apns_id

    def _answer_to(self, token: str) -> Answer:
        if self.answers_to.get(token):
            return self.answers_to[token].pop(0)
        if self.answers:
            return self.answers.pop(0)
        return self.always or Answer(delay_s=self.answer_time_s)

    def _check(self, headers: dict[str, str], body: bytes) -> str:
        """The device token. Raises Refused with the reason."""
        self._check_provider_token(headers.get("authorization"))
        if headers[":method"] != "POST":
            raise Refused("MethodNotAllowed")
        path = re.fullmatch(r"/3/device/([^/]*)", headers[":path"])
        if path is None:
            raise Refused("BadPath")
        if not path[1]:
            raise Refused("MissingDeviceToken")
        if not re.fullmatch(r"([0-9a-fA-F]{2}){32,100}", path[1]):
            raise Refused("BadDeviceToken")
        if "apns-topic" not in headers:
            raise Refused("MissingTopic")
        if headers["apns-topic"] != self.topic:
            raise Refused("TopicDisallowed")
        _check_headers(headers)
        _check_payload(body, headers["apns-push-type"])
        return path[1]

    def _check_provider_token(self, authorization: str | None) -> None:
        if authorization is None:
            raise Refused("MissingProviderToken")
        token = authorization.removeprefix("bearer ")
        if token not in self._issued_at:
            self._issued_at[token] = self._verified(token)
        now = self.clock()
        if not now - MAX_AGE_S < self._issued_at[token] < now + 60:
            raise Refused("ExpiredProviderToken")
        if token in self._seen_at:
            return
        if self._seen_at and now - max(self._seen_at.values()) < MIN_UPDATE_S:
            raise Refused("TooManyProviderTokenUpdates")
        self._seen_at[token] = now
        self.provider_tokens.append(token)

    def _verified(self, token: str) -> float:
        try:
            if jwt.get_unverified_header(token).get("kid") != self.key_id:
                raise Refused("InvalidProviderToken")
            # Its age is ours to look at, by our own clock.
            checks = {"verify_iat": False, "verify_exp": False, "require": ["iss", "iat"]}
            claims = jwt.decode(token, self.key.public_key(), ["ES256"], issuer=self.team_id, options=checks)  # type: ignore[arg-type]
        except jwt.InvalidTokenError as error:
            raise Refused("InvalidProviderToken") from error
        return float(claims["iat"])


def _check_headers(headers: dict[str, str]) -> None:
    if headers.get("apns-push-type") not in PUSH_TYPES:
        raise Refused("InvalidPushType")
    priority = headers.get("apns-priority", "10")
    if priority not in ("1", "5", "10") or (headers["apns-push-type"] == "background" and priority == "10"):
        raise Refused("BadPriority")
    if not re.fullmatch(r"\d{1,10}", headers.get("apns-expiration", "0")):
        raise Refused("BadExpirationDate")
    if len(headers.get("apns-collapse-id", "").encode()) > 64:
        raise Refused("BadCollapseId")
    if not re.fullmatch(
        r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", headers.get("apns-id", str(uuid.UUID(int=0)))
    ):
        raise Refused("BadMessageId")


def _check_payload(body: bytes, push_type: str) -> None:
    if not body:
        raise Refused("PayloadEmpty")
    if len(body) > MAX_PAYLOAD_BYTES:
        raise Refused("PayloadTooLarge")
    aps = json.loads(body).get("aps")
    if not aps:
        raise Refused("PayloadEmpty")
    if push_type == "background" and aps != {"content-available": 1}:
        raise Refused("InvalidPushType")  # Apple says less, and drops it


class _Connection(asyncio.Protocol):
    def __init__(self, server: ApnsServer) -> None:
        self._server = server
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._deaf = False
        self._open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            transport.abort()
            return
        self._server.connections += 1
        self._server.connected(transport)
        # As Apple: one stream until a provider token proves good.
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1}
        )
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.disconnected(self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._transport.close()
            return
        for event in events:
            self._handle(event)
        if not self._deaf:
            self._flush()

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(stream), headers=list(headers)):
                self._open += 1
                self._server.most_open = max(self._server.most_open, self._open)
                self._requests[stream] = (dict(headers), bytearray())  # type: ignore[arg-type]  # they are str
            case h2.events.DataReceived(stream_id=int(stream), data=bytes(data), flow_controlled_length=int(length)):
                self._requests[stream][1].extend(data)
                self._h2.acknowledge_received_data(length, stream)
            case h2.events.StreamEnded(stream_id=int(stream)) if stream in self._requests:
                self._answer(stream, *self._requests.pop(stream))
            case h2.events.StreamReset(stream_id=int(stream)):
                self._requests.pop(stream, None)
                self._open -= 1

    def _answer(self, stream: int, headers: dict[str, str], body: bytearray) -> None:
        answer, apns_id = self._server.take(headers, bytes(body))
        if REASONS.get(answer.reason) != 403:
            self._let_in()
        if answer.silent:
            self._deaf = True
        elif answer.delay_s:
            self._server.loop.call_later(answer.delay_s, self._give, stream, answer, apns_id)
        else:
            self._give(stream, answer, apns_id)

    def _let_in(self) -> None:
        code = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
        if self._h2.local_settings[code] == 1 and self._server.max_streams > 1:
            self._h2.update_settings({code: self._server.max_streams})

    def _give(self, stream: int, answer: Answer, apns_id: str) -> None:
        if self._transport.is_closing():
            return
        if answer.cut:
            self._transport.abort()
        elif answer.goaway:
            self.say_goodbye()
        elif answer.reset:
            self._end(stream, lambda: self._h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR))
        else:
            self._end(stream, lambda: self._respond(stream, answer, apns_id))

    def _end(self, stream: int, act: Callable[[], None]) -> None:
        try:
            act()
        except h2.exceptions.StreamClosedError:
            return  # the client has given up on it
        self._open -= 1
        self._flush()

    def _respond(self, stream: int, answer: Answer, apns_id: str) -> None:
        status = answer.status or REASONS.get(answer.reason, 200)
        headers = [(":status", str(status)), ("apns-id", apns_id), *answer.headers.items()]
        if answer.body is None and not answer.reason:
            self._h2.send_headers(stream, headers, end_stream=True)
            return
        said: dict[str, Any] = {"reason": answer.reason}
        if answer.timestamp_ms is not None:
            said["timestamp"] = answer.timestamp_ms
        self._h2.send_headers(stream, headers)
        self._h2.send_data(stream, json.dumps(said).encode() if answer.body is None else answer.body, end_stream=True)

    def say_goodbye(self) -> None:
        self._h2.close_connection(additional_data=b'{"reason":"Shutdown"}')
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._transport.write(data)

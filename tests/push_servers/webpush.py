"""
A Web Push service on 127.0.0.1, over TLS: RFC 8030 for the chat server, and a browser for the test.

It makes subscriptions as a browser does, refuses what is not signed for it by the key that it was subscribed with
(RFC 8292), decrypts what it takes (RFC 8291), and answers otherwise when a test says so. `next_answer` is for the next
push alone.
"""

import base64
import contextlib
import json
import re
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, Self

import http_ece
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.push_servers.certificates import certificate_in

MAX_BODY_BYTES = 4_096


@dataclass
class Browser:
    """A subscription, with the half of its keys that only the browser has."""

    endpoint: str
    application_server_key: str
    private_key: ec.EllipticCurvePrivateKey
    auth: bytes

    @property
    def subscription(self) -> dict[str, Any]:
        point = self.private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return {"endpoint": self.endpoint, "keys": {"p256dh": base64url(point), "auth": base64url(self.auth)}}

    @property
    def token(self) -> str:
        return json.dumps(self.subscription)


@dataclass(frozen=True)
class Arrived:
    """One push that the service took."""

    endpoint: str
    payload: dict[str, Any]
    headers: dict[str, str]
    claims: dict[str, Any]


@dataclass
class Answer:
    """What the service does instead of taking a push."""

    status: int = 201
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0  # before the answer
    silent: bool = False  # no answer at all, until the other side is gone
    dripping: bool = False  # the answer begins, and then comes byte by byte
    cut: bool = False  # the connection ends instead


class Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class WebPushService:
    """Runs while it is entered. `arrived` holds what it took, in order; `requests` counts all there were."""

    def __init__(self, directory: Path) -> None:
        self.certificate = certificate_in(directory)
        self.arrived: Queue[Arrived] = Queue()
        self.requests = 0
        self.connections = 0
        self.browsers: dict[str, Browser] = {}
        self.answers: list[Answer] = []
        self.always: Answer | None = None
        self._stopping = threading.Event()
        service = self

        class Handler(_Handler):
            def setup(self) -> None:
                service.connections += 1
                self.service = service
                super().setup()

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate.certificate, self.certificate.key)
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="web push service")

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    @property
    def settings(self) -> dict[str, str]:
        """Of the environment, for a chat server that is to use this one."""
        return {"WEBPUSH_ALLOW_PRIVATE": "yes", "WEBPUSH_CA_FILE": str(self.certificate.certificate)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def subscribe(self, application_server_key: str) -> Browser:
        """As `pushManager.subscribe({applicationServerKey, userVisibleOnly: true})`."""
        endpoint = f"{self.origin}/wpush/v2/{secrets.token_urlsafe(24)}"
        key = ec.generate_private_key(ec.SECP256R1())
        browser = Browser(endpoint, application_server_key, key, secrets.token_bytes(16))
        self.browsers[endpoint] = browser
        return browser

    def unsubscribe(self, browser: Browser) -> None:
        """Its endpoint is 410 from now on."""
        del self.browsers[browser.endpoint]

    def next_answer(self, status: int = 201, **more: Any) -> None:
        self.answers.append(Answer(status, **more))

    def wait(self, seconds: float = 20) -> Arrived:
        """The next push that it took; queue.Empty when there is none in time."""
        return self.arrived.get(timeout=seconds)

    # --- what it checks ----------------------------------------------------------------------------------------------
    def take(self, endpoint: str, headers: dict[str, str], body: bytes) -> Arrived:
        """Raises Refused."""
        browser = self.browsers.get(endpoint)
        if browser is None:
            raise Refused(410, "no such subscription")
        claims = self._check_vapid(headers.get("authorization", ""), browser)
        if not re.fullmatch(r"\d{1,10}", headers.get("ttl", "")):
            raise Refused(400, "TTL is missing")
        if not re.fullmatch(r"[A-Za-z0-9_-]{0,32}", headers.get("topic", "")):
            raise Refused(400, "a topic is at most 32 characters of base64url")
        if headers.get("urgency", "normal") not in ("very-low", "low", "normal", "high"):
            raise Refused(400, "no such urgency")
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, "payload too large")
        if headers.get("content-encoding") != "aes128gcm":
            raise Refused(415, "not aes128gcm")
        try:
            text = http_ece.decrypt(body, private_key=browser.private_key, auth_secret=browser.auth)
        except http_ece.ECEException as error:
            raise Refused(400, f"not for this subscription: {error}") from error
        return Arrived(endpoint, json.loads(text), headers, claims)

    def _check_vapid(self, authorization: str, browser: Browser) -> dict[str, Any]:
        found = re.fullmatch(r"vapid t=([\w-]+)\.([\w-]+)\.([\w-]+), ?k=([\w-]+)", authorization)
        if found is None:
            raise Refused(401, "no VAPID")
        header, claims, signature, key = found.groups()
        if key != browser.application_server_key:
            raise Refused(403, "the key is not the one of the subscription")
        if json.loads(unbase64url(header)).get("alg") != "ES256":
            raise Refused(401, "the algorithm is ES256")
        raw = unbase64url(signature)
        numbers = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64url(key))
        try:
            public.verify(encode_dss_signature(*numbers), f"{header}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise Refused(403, "the signature is wrong") from error
        said: dict[str, Any] = json.loads(unbase64url(claims))
        if said.get("aud") != self.origin:
            raise Refused(403, "the audience is another")
        if not time.time() < said.get("exp", 0) <= time.time() + 24 * 3_600:
            raise Refused(403, "expired, or valid for longer than 24 hours")
        if not re.match(r"mailto:.+@.+|https://", said.get("sub", "")):
            raise Refused(403, "the subject is no contact")
        return said


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or does not trust us, is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: WebPushService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.service.requests += 1
        answer = self.service.answers.pop(0) if self.service.answers else self.service.always
        if answer is None:
            answer = self._take(body)
        self.service._stopping.wait(answer.delay_s)
        self._give(answer)

    def _take(self, body: bytes) -> Answer:
        endpoint = f"{self.service.origin}{self.path}"
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            arrived = self.service.take(endpoint, headers, body)
        except Refused as refusal:
            return Answer(refusal.status, body=str(refusal).encode())
        self.service.arrived.put(arrived)
        return Answer(201, {"Location": f"{self.service.origin}/m/{secrets.token_urlsafe(8)}"})

    def _give(self, answer: Answer) -> None:
        if answer.cut:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        if answer.silent:
            self.close_connection = True
            self.connection.settimeout(0.1)
            while not self.service._stopping.is_set() and not self._is_gone():
                pass
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.dripping:
            self._drip()
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _is_gone(self) -> bool:
        try:
            return self.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def _drip(self) -> None:
        """A header that never ends, each byte in time."""
        self.close_connection = True
        self.flush_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"X-Drip: ")
            while not self.service._stopping.wait(0.1):
                self.wfile.write(b".")

    def log_message(self, *_: object) -> None:
        """Tests read what arrived."""


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unbase64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

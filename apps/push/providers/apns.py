"""
APNs, for Apple's devices: apns2 on one HTTP/2 connection per worker, which all its threads share.

Only one thread of ours, the courier, touches that connection; the others hand it a letter and wait for the answer.
hyper, below apns2, promises to be safe among threads and is not: a GOAWAY that meets a request is a deadlock, and who
waits for a silent server waits for ever. So the courier waits for the socket itself, opens as many streams as APNs
allows, and gives each of them up in time.

A token is only given up for 410. BadDeviceToken is also what every token gets when the sandbox is mistaken for the real
thing, and DeviceTokenNotForTopic when the topic is: a mistake of ours must not empty the device table.
"""

import base64
import contextlib
import logging
import os
import re
import select
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import certifi
import msgspec
from apns2.client import APNsClient, NotificationPriority, NotificationType
from apns2.credentials import TokenCredentials
from apns2.payload import Payload, PayloadAlert
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hyper import HTTP20Connection
from hyper.common.bufsocket import BufferedSocket
from hyper.http20.exceptions import HTTP20Error
from hyper.http20.stream import MAX_CHUNK, Stream
from jwt.utils import der_to_raw_signature

from apps.push.notification import Push
from apps.push.providers.base import Outcome, Result
from apps.push.providers.wire import MAX_BODY_CHARS, MAX_TITLE_CHARS, retry_after, shortened

logger = logging.getLogger(__name__)

ANSWER_S = 10.0  # from handing a letter over to giving it up
GRACE_S = 2.0  # for a courier that is connecting
PERIOD_S, KEPT_S = 1_800, 3_000  # of a provider token
LOOK_S = 0.1  # between two looks for letters that are late
CONNECT_S = 4.0
WRITE_S = 4.0
MAX_STREAMS = 500  # whatever more APNs allows
MAX_PAYLOAD_BYTES = 4_096
# What a connection can end with. KeyError is hyper's, for a frame of a stream that it has forgotten.
_BROKEN = (OSError, HTTP20Error, H2Error, KeyError)


# --- what is sent ----------------------------------------------------------------------------------------------------
def payload_of(push: Push) -> Payload:
    conversation = str(push.conversation_id)
    chat = {
        "kind": push.kind,
        "push_id": str(push.push_id),
        "conversation_id": conversation,
        "seq": push.seq,
        "path": push.path,
        "badge": push.badge,
        "count": push.count,
    }
    if push.kind == "clear":  # the app takes the notification away by itself, and sets the badge
        return Payload(content_available=True, custom={"chat": chat})
    alert = PayloadAlert(title=shortened(push.title, MAX_TITLE_CHARS), body=shortened(push.body, MAX_BODY_CHARS))
    return Payload(alert=alert, badge=push.badge, sound="default", thread_id=conversation, custom={"chat": chat})


# --- what came of it -------------------------------------------------------------------------------------------------
class Said(msgspec.Struct, frozen=True):
    reason: str = ""
    timestamp: int | None = None  # of a 410, in milliseconds: when the token was known to be dead


def result_of(status: int, headers: dict[str, str], body: bytes, now: datetime) -> Result:
    try:
        said = msgspec.json.decode(body or b"{}", type=Said)
    except msgspec.DecodeError:
        said = Said()
    error = f"{status} {said.reason}".strip()[:200]
    match status, said.reason:
        case 200, _:
            return Result(Outcome.ACCEPTED, provider_id=headers.get("apns-id", "")[:200])
        case 410, "Unregistered" | "ExpiredToken":
            since = None if said.timestamp is None else datetime.fromtimestamp(said.timestamp / 1_000, UTC)
            return Result(Outcome.UNREGISTERED, error=error, unregistered_at=since)
        case (403, _) | (400, "BadTopic" | "MissingTopic" | "TopicDisallowed"):
            return Result(Outcome.MISCONFIGURED, error=error)
        case (410 | 429, _) | (400, "IdleTimeout"):  # a 410 without a reason is not Apple's
            return Result(Outcome.RETRY, error=error, retry_after=retry_after(headers.get("retry-after", ""), now))
    if status >= 500:
        return Result(Outcome.RETRY, error=error, retry_after=retry_after(headers.get("retry-after", ""), now))
    return Result(Outcome.REJECTED, error=error)


# --- the connection --------------------------------------------------------------------------------------------------
# Different in each push. What is the same, the provider token above all, is said once per connection, as Apple asks.
_CHANGING = {b":path", b"apns-expiration", b"apns-collapse-id", b"apns-id"}


class _Encoder(Encoder):
    """Its table is for headers that come again. No Huffman code, which costs more here than it saves."""

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:
        return super().encode(
            [(NeverIndexedHeaderTuple if name in _CHANGING else HeaderTuple)(name, value) for name, value in headers],
            huffman=huffman,
        )


class _Connection(HTTP20Connection):  # type: ignore[misc]  # hyper has no types
    """hyper's, with timeouts, TLS of this decade, and nothing written until `flush`. For one thread."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port, secure=True)
        self._context = context
        self._corked = False

    @property
    def socket(self) -> ssl.SSLSocket | None:
        return None if self._sock is None else self._sock._sck

    def connect(self) -> None:
        if self._sock is not None:
            return
        plain = socket.create_connection((self.host, self.port), CONNECT_S)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        self._sock = BufferedSocket(secured, self.network_buffer_size)
        with self._conn as h2:
            h2.encoder = _Encoder()
            # Headers are ours alone and as they should be; what a device gave as its token was looked at.
            h2.config.normalize_outbound_headers = h2.config.validate_outbound_headers = False
        if secured.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server does not speak HTTP/2")
        self._corked = False
        self._send_preamble()  # reads the server's settings, too
        self._corked = True

    def request(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> int:
        """hyper ends a stream only by a chunk that is not full, so JSON of just that length gets a space more."""
        stream: int = super().request(method, url, body if len(body) % MAX_CHUNK else body + b" ", headers)
        return stream

    def read(self) -> set[int]:
        """What has come so far, without waiting; returns the streams that it belongs to."""
        assert self.socket is not None
        self.socket.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):  # a part of a record, or one of TLS itself
            self._recv_cb()
        touched: set[int] = self.recent_recv_streams | self.reset_streams
        self.recent_recv_streams, self.reset_streams = set(), set()
        return touched

    def flush(self) -> None:
        if self.socket is None:
            return
        with self._conn as h2:
            data = h2.data_to_send()
        if data:
            self.socket.settimeout(WRITE_S)
            self.socket.sendall(data)

    def has_room(self) -> bool:
        with self._conn as h2:
            window: int = h2.outbound_flow_control_window
            most = min(h2.remote_settings.max_concurrent_streams, MAX_STREAMS)
            return len(self.streams) < most and window > 2 * MAX_PAYLOAD_BYTES

    def close(self, error_code: int | None = None) -> None:
        """Without a word of goodbye, for which hyper would wait; it calls this itself when a GOAWAY comes."""
        if self._sock is not None:
            self._sock.close()
        self._HTTP20Connection__init_state()  # the name it hides it under: a fresh one for the next connect()

    def give_up(self, stream_id: int) -> None:
        self.streams[stream_id].close(ErrorCodes.CANCEL)

    def _send_outstanding_data(self, tolerate_peer_gone: bool = False, send_empty: bool = True) -> None:
        if not self._corked:
            super()._send_outstanding_data(tolerate_peer_gone, send_empty)


class _Credentials(TokenCredentials):  # type: ignore[misc]  # apns2's types do not know its base
    """
    The provider token. Apple takes one for an hour, and wants to see a new one at most every 20 minutes.

    Several workers, and one that starts again, must not each come with their own. So a token is of a half hour, signed
    so that whoever signs it gets the same (RFC 6979), and kept until it is 50 minutes old.
    """

    def __init__(self, key_id: str, team_id: str, key: ec.EllipticCurvePrivateKey) -> None:
        super().__init__("", key_id, team_id)
        self._key, self._key_id, self._team_id = key, key_id, team_id
        self._issued_at = 0
        self._header = ""

    def get_authorization_header(self, topic: str | None) -> str:
        now = int(time.time())
        if not 0 <= now - self._issued_at < KEPT_S:
            self._issue(now - now % PERIOD_S)
        return self._header

    def renew(self, refused: str) -> None:
        """Make one of this very second, where the one that was refused as too old is still in use."""
        if self._header == refused:
            self._issue(int(time.time()))

    def _issue(self, at: int) -> None:
        self._issued_at = at
        header = {"alg": "ES256", "kid": self._key_id}
        claims = {"iss": self._team_id, "iat": at}
        signed = ".".join(_base64url(msgspec.json.encode(part)) for part in (header, claims))
        signature = self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        self._header = f"bearer {signed}.{_base64url(der_to_raw_signature(signature, self._key.curve))}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class _Client(APNsClient):  # type: ignore[misc]
    def _init_connection(self, *_: Any) -> None:
        context = ssl.create_default_context(cafile=settings.APNS_CA_FILE or certifi.where())
        context.set_alpn_protocols(["h2"])
        self._connection = _Connection(settings.APNS_HOST, settings.APNS_PORT, context)


# --- the courier -----------------------------------------------------------------------------------------------------
@dataclass(eq=False, slots=True)
class _Letter:
    token: str
    push: Push
    deadline: float  # monotonic
    answer: Future[Result] = field(default_factory=Future)
    tries: int = 0
    authorization: str = ""
    stream: Stream | None = None

    def settle(self, result: Result) -> None:
        self.answer.set_result(result)

    @property
    def has_answer(self) -> bool:
        stream = self.stream
        return stream is not None and stream.remote_closed and stream.response_headers is not None


class _Courier:
    """The thread that carries letters. Callers wait for theirs, so there are never more of them than threads."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._credentials = _Credentials(settings.APNS_KEY_ID, settings.APNS_TEAM_ID, key)
        self._client = _Client(self._credentials)
        self._connection: _Connection = self._client._connection
        self._waiting: deque[_Letter] = deque()
        self._open: dict[int, _Letter] = {}
        self._heard_at = 0.0
        self._look_at = 0.0
        self._bell, self._rope = socket.socketpair()
        self._rope.setblocking(False)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="apns", daemon=True)
        self._thread.start()

    def carry(self, letter: _Letter) -> None:
        self._waiting.append(letter)
        self._ring()

    def stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):  # it may have seen that already, and be gone with its bell
            self._ring()
        self._thread.join(WRITE_S)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            self._rope.send(b"!")

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception as error:  # the outermost loop: a bug must not end all pushes
                logger.exception("the APNs courier stumbled")
                self._lose(repr(error))
        self._lose("the worker stops")
        self._bell.close()
        self._rope.close()

    def _turn(self) -> None:
        self._wait()
        try:
            self._read()
            self._connect()
            self._give_up_late_ones(time.monotonic())
            self._write()
        except _BROKEN as error:
            self._lose(f"{type(error).__name__}: {error}")

    def _wait(self) -> None:
        """Until a letter comes, the server says something, or it is time to look for letters that are late."""
        sock = self._connection.socket
        if sock.pending() if sock is not None else self._waiting:
            return
        timeout = LOOK_S if self._open or self._waiting else None
        ready, _, _ = select.select([self._bell] if sock is None else [self._bell, sock], [], [], timeout)
        if self._bell in ready:
            self._bell.recv(65_536)

    # --- what comes --------------------------------------------------------------------------------------------------
    def _read(self) -> None:
        sock = self._connection.socket
        if sock is None or not (sock.pending() or select.select([sock], [], [], 0)[0]):
            return
        touched = self._connection.read()
        self._heard_at = time.monotonic()
        if self._connection.socket is None:
            raise ConnectionAbortedError("GOAWAY")
        for stream_id in touched & self._open.keys():
            letter = self._open[stream_id]
            if letter.has_answer:
                self._close(stream_id)
                self._answered(letter)
            elif letter.stream.remote_closed:
                self._close(stream_id)
                letter.settle(Result(Outcome.RETRY, error="the stream was reset"))

    def _close(self, stream_id: int) -> None:
        del self._open[stream_id]
        self._connection.streams.pop(stream_id, None)

    def _answered(self, letter: _Letter) -> None:
        headers = {name.decode().lower(): value.decode() for name, value in letter.stream.response_headers}
        body = b"".join(letter.stream.data)
        result = result_of(int(headers[":status"]), headers, body, datetime.now(UTC))
        if result.error == "403 ExpiredProviderToken" and letter.tries == 1:
            self._credentials.renew(letter.authorization)
            self._waiting.appendleft(letter)
        else:
            letter.settle(result)

    # --- what goes ---------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        if not self._waiting or self._connection.socket is not None:
            return
        try:
            self._connection.connect()
        except _BROKEN as error:
            self._connection.close()
            why = f"no connection: {type(error).__name__}: {error}"[:200]
            # Whom we do not trust, nobody can reach until a person has looked at it.
            outcome = Outcome.MISCONFIGURED if isinstance(error, ssl.SSLCertVerificationError) else Outcome.RETRY
            while self._waiting:
                self._waiting.popleft().settle(Result(outcome, error=why))
        self._heard_at = time.monotonic()

    def _write(self) -> None:
        while self._waiting and self._connection.has_room():
            letter = self._waiting.popleft()
            letter.tries += 1
            try:
                self._open[self._sent(letter)] = letter
            except _BROKEN:
                self._waiting.appendleft(letter)
                raise
        self._connection.flush()

    def _sent(self, letter: _Letter) -> int:
        push, is_clear = letter.push, letter.push.kind == "clear"
        letter.authorization = self._credentials.get_authorization_header(settings.APNS_TOPIC)
        stream_id: int = self._client.send_notification_async(
            letter.token,
            payload_of(push),
            topic=settings.APNS_TOPIC,
            priority=NotificationPriority.Delayed if is_clear else NotificationPriority.Immediate,
            expiration=max(int(push.expires_at.timestamp()), 0),
            collapse_id=str(push.conversation_id),
            push_type=NotificationType.Background if is_clear else NotificationType.Alert,
        )
        letter.stream = self._connection.streams[stream_id]
        return stream_id

    # --- what goes wrong ---------------------------------------------------------------------------------------------
    def _give_up_late_ones(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        for letter in [letter for letter in self._waiting if letter.deadline <= now]:
            self._waiting.remove(letter)
            letter.settle(Result(Outcome.RETRY, error="no room on the connection in time"))
        late = [(stream_id, letter) for stream_id, letter in self._open.items() if letter.deadline <= now]
        for stream_id, letter in late:
            self._connection.give_up(stream_id)
            self._close(stream_id)
            letter.settle(Result(Outcome.RETRY, error="no answer in time"))
        if late and now - self._heard_at > ANSWER_S / 2:
            raise TimeoutError("the server is silent")

    def _lose(self, why: str) -> None:
        """The connection is gone. What was on it may have arrived; once more is no harm, as it collapses."""
        letters = [*self._open.values(), *self._waiting]
        self._open.clear()
        self._waiting.clear()
        for letter in letters:
            if letter.has_answer:
                self._answered(letter)
            elif letter.tries < 2 and not self._stopping:
                self._waiting.append(letter)
            else:
                letter.settle(Result(Outcome.RETRY, error=why[:200]))
        self._connection.close()


# --- the provider ----------------------------------------------------------------------------------------------------
class Apns:
    name = "apns"

    def __init__(self) -> None:
        self._courier = _Courier(_key())
        weakref.finalize(self, self._courier.stop)

    def send(self, token: str, push: Push) -> Result:
        if not re.fullmatch(r"[0-9a-fA-F]{64,200}", token):  # it becomes a part of a path
            return Result(Outcome.REJECTED, error="not a device token of Apple's")
        letter = _Letter(token, push, time.monotonic() + ANSWER_S)
        self._courier.carry(letter)
        try:
            return letter.answer.result(ANSWER_S + GRACE_S)
        except TimeoutError:
            return Result(Outcome.RETRY, error="no connection in time")


def _key() -> ec.EllipticCurvePrivateKey:
    path = settings.APNS_KEY_FILE
    try:
        with open(path, "rb") as file:
            key = load_pem_private_key(file.read(), password=None)
    except OSError as error:
        raise ImproperlyConfigured(f"APNS_KEY_FILE {path!r} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ImproperlyConfigured(f"APNS_KEY_FILE {path!r} is no key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ImproperlyConfigured(f"APNS_KEY_FILE {path!r} is no key of Apple's: those are ES256")
    if settings.APNS_CA_FILE and not os.path.isfile(settings.APNS_CA_FILE):
        raise ImproperlyConfigured(f"APNS_CA_FILE {settings.APNS_CA_FILE!r} can't be read")
    return key

"""
HTTPS to hosts that users name, without letting them reach what only we can reach (SSRF).

A host must have public addresses alone, and the connection goes to an address that was looked at, so that no second
look-up can answer differently. Nothing follows redirects, reads more than a little, or waits longer than it was told.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import certifi
import msgspec
from django.conf import settings

LOOKUP_S = 4.0
CONNECT_S = 4.0
ANSWER_S = 6.0  # with the two above: less than the 15 s that a provider may take
MAX_ANSWER_BYTES = 2_000
MAX_IDLE = 8  # connections to one host
MAX_IDLE_S = 20.0
MAX_HOSTS = 100

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_lookups = ThreadPoolExecutor(8, thread_name_prefix="lookup")  # the resolver itself knows no timeout

Address = tuple[socket.AddressFamily, Any]


class NotPublic(Exception):
    """The host leads to a place that is not on the public internet."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    text: str  # the beginning of the body
    headers: dict[str, str]  # by lower-case name


# --- which addresses -------------------------------------------------------------------------------------------------
def addresses_of(host: str, port: int) -> list[Address]:
    """Where `host` is. Raises NotPublic when any of it is not public, OSError when it can't be looked up."""
    looking = _lookups.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = [(family, address) for family, _, _, _, address in looking.result(LOOKUP_S)]
    except UnicodeError as error:  # a label that is too long, or empty
        raise OSError(f"{host!r} is no host name") from error
    if not settings.WEBPUSH_ALLOW_PRIVATE and not all(is_public(address[0]) for _, address in found):
        raise NotPublic(f"{host} is not a public address")
    return found


def is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and (inner := _inner(address)) is not None:
        return is_public(str(inner))
    return address.is_global and not address.is_multicast and not address.is_reserved


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address at which a connection to this IPv6 address arrives."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


# --- a connection ----------------------------------------------------------------------------------------------------
class _TimedSocket(ssl.SSLSocket):
    """Its timeout is for the whole answer, not for each byte of it."""

    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(max(self.deadline - time.monotonic(), 0.001))
        return super().recv_into(*args, **kwargs)


class _Line(http.client.HTTPConnection):
    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port)
        self._context = context
        self.idle_since = 0.0

    def connect(self) -> None:
        plain = _dial(addresses_of(self.host, self.port))
        try:
            self.sock = self._context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        if self.sock is None:
            self.connect()
        self.sock.settimeout(ANSWER_S)
        self.sock.deadline = time.monotonic() + ANSWER_S
        self.request("POST", path, body, headers)
        response = self.getresponse()
        text = response.read(MAX_ANSWER_BYTES).decode(errors="replace")
        if not response.isclosed():
            self.close()  # there is more of it, which nobody wants to read
        return Answer(response.status, text, {name.lower(): value for name, value in response.getheaders()})


def _dial(addresses: list[Address]) -> socket.socket:
    deadline = time.monotonic() + CONNECT_S
    failure: OSError = TimeoutError("no address answered")
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


# --- all connections -------------------------------------------------------------------------------------------------
class Outside:
    """Keeps connections for the next push to the same service. Safe to use from several threads."""

    def __init__(self) -> None:
        self._context = ssl.create_default_context(cafile=settings.WEBPUSH_CA_FILE or certifi.where())
        self._context.sslsocket_class = _TimedSocket
        self._idle: dict[tuple[str, int], list[_Line]] = {}
        self._lock = threading.Lock()

    def post(self, host: str, port: int, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Raises NotPublic; OSError or HTTPException for what went wrong on the way, where it may have arrived."""
        line = self._take(host, port)
        if line is not None:
            with contextlib.suppress(ConnectionError, http.client.HTTPException, ssl.SSLError):
                return self._post(line, path, body, headers)
            # The other side had closed it meanwhile; a new one shall say.
        return self._post(_Line(host, port, self._context), path, body, headers)

    def _post(self, line: _Line, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        try:
            answer = line.post(path, body, headers)
        except BaseException:
            line.close()
            raise
        self._give_back(line)
        return answer

    def _take(self, host: str, port: int) -> _Line | None:
        with self._lock:
            lines = self._idle.get((host, port), [])
            while lines:
                line = lines.pop()
                if time.monotonic() - line.idle_since < MAX_IDLE_S:
                    return line
                line.close()
        return None

    def _give_back(self, line: _Line) -> None:
        if line.sock is None:
            return
        line.idle_since = time.monotonic()
        with self._lock:
            if (line.host, line.port) not in self._idle and len(self._idle) >= MAX_HOSTS:
                for old in self._idle.pop(next(iter(self._idle))):
                    old.close()
            lines = self._idle.setdefault((line.host, line.port), [])
            if len(lines) < MAX_IDLE:
                lines.append(line)
            else:
                line.close()

    def close(self) -> None:
        with self._lock:
            for lines in self._idle.values():
                for line in lines:
                    line.close()
            self._idle.clear()

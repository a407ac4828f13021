"""
The token of a browser: its PushSubscription as JSON, `{"endpoint": ..., "keys": {"p256dh": ..., "auth": ...}}`.

The endpoint is an address that a client names and our workers write to, so it is looked at twice: here, when it is
registered, and in providers/outside.py at each connection.
"""

import base64
import binascii
import re
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from django.conf import settings

from apps.push.providers.outside import NotPublic, addresses_of


class BadSubscription(Exception):
    """This token can't be pushed to; the text says why, for people."""


class Keys(msgspec.Struct, frozen=True):
    p256dh: str
    auth: str


class Subscription(msgspec.Struct, frozen=True):
    endpoint: str
    keys: Keys

    @classmethod
    def of(cls, token: str) -> "Subscription":
        """Raises BadSubscription."""
        try:
            subscription = msgspec.json.decode(token, type=cls)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise BadSubscription("This is not a push subscription.") from error
        subscription._check_endpoint()
        subscription._check_keys()
        return subscription

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.endpoint).port or 443

    @property
    def origin(self) -> str:
        return f"https://{self.host}" if self.port == 443 else f"https://{self.host}:{self.port}"

    @property
    def path(self) -> str:
        url = urlsplit(self.endpoint)
        return f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"

    def _check_endpoint(self) -> None:
        # One spelling only: what we look at and what we connect to can't be two different hosts.
        if not re.fullmatch(r"https://[a-z0-9.-]{1,253}(:\d{1,5})?(/[!-\"$-~]*)?", self.endpoint):
            raise BadSubscription("The endpoint has to be https://host/path.")
        try:
            port = self.port
        except ValueError as error:
            raise BadSubscription("The endpoint has a port that does not exist.") from error
        if port != 443 and not settings.WEBPUSH_ALLOW_PRIVATE:
            raise BadSubscription("The endpoint has to be on port 443.")

    def _check_keys(self) -> None:
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _decoded(self.keys.p256dh))
            if len(_decoded(self.keys.auth)) != 16:
                raise ValueError("an auth secret has 16 bytes")
        except ValueError as error:
            raise BadSubscription("The keys are not those of a push subscription.") from error


def registrable(token: str) -> str:
    """
    The token in the one spelling under which it is kept.

    Raises BadSubscription for one that can't work, or whose endpoint is not on the public internet.
    """
    subscription = Subscription.of(token)
    try:
        addresses_of(subscription.host, subscription.port)
    except NotPublic as error:
        raise BadSubscription("The endpoint is not on the public internet.") from error
    except OSError as error:
        raise BadSubscription("The host of the endpoint can't be found.") from error
    return _spelled(subscription)


def kept_as(token: str) -> str:
    """Any device's token as `registrable` has spelled it."""
    try:
        return _spelled(Subscription.of(token))
    except BadSubscription:
        return token


def _spelled(subscription: Subscription) -> str:
    return msgspec.json.encode(subscription).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error

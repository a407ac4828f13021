"""
The key pair by which push services know this chat (VAPID, RFC 8292). Browsers subscribe with its public half.

The private half is a setting, the same on every node: whoever changes it makes every browser subscribe anew. It is 32
bytes in base64url, which most Web Push tools write and read.
"""

import base64
import binascii
import time
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from py_vapid import Vapid02

TOKEN_LIFETIME_S = 12 * 3_600  # push services refuse more than 24 hours


def public_key() -> str:
    """What a browser's `pushManager.subscribe` takes as applicationServerKey; empty where Web Push is not set up."""
    return _public_key_of(settings.WEBPUSH_PRIVATE_KEY) if settings.WEBPUSH_PRIVATE_KEY else ""


def authorization(origin: str) -> str:
    """The header by which we show the push service at `origin` who we are."""
    claims = {"aud": origin, "exp": int(time.time()) + TOKEN_LIFETIME_S, "sub": settings.WEBPUSH_CONTACT}
    signed: str = _signer(settings.WEBPUSH_PRIVATE_KEY).sign(claims)["Authorization"]
    return signed


@lru_cache(maxsize=2)
def _public_key_of(private_key: str) -> str:
    point = _load(private_key).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return _base64url(point)


@lru_cache(maxsize=2)
def _signer(private_key: str) -> Vapid02:
    # Not strict: its pattern for contacts refuses addresses with a port. The settings have looked at ours.
    return Vapid02(_load(private_key), conf={"no-strict": True})


def _load(private_key: str) -> ec.EllipticCurvePrivateKey:
    try:
        raw = base64.b64decode(private_key + "=" * (-len(private_key) % 4), altchars=b"-_", validate=True)
        if len(raw) != 32:
            raise ValueError(f"{len(raw)} bytes")
        return ec.derive_private_key(int.from_bytes(raw, "big"), ec.SECP256R1())
    except (ValueError, binascii.Error) as error:
        raise ImproperlyConfigured("WEBPUSH_PRIVATE_KEY is not 32 bytes in base64url") from error


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

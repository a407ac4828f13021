"""A new private key for VAPID. Apart from vapid.py, as the supervisor has neither Django nor time for cryptography."""

import base64
import secrets

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def new_private_key() -> str:
    """A number from 1 to the order of the curve - 1, as 32 bytes in base64url."""
    number = secrets.randbelow(P256_ORDER - 1) + 1
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()

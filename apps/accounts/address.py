"""Where a request comes from, as far as that can be believed."""

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any


def address_of(scope: Mapping[str, Any], trusted_proxies: int) -> str:
    """
    The address of who opened this connection; of an IPv6 address, the network that one household has.

    The last `trusted_proxies` entries of X-Forwarded-For were appended by our own proxies, so the first of those is
    what the outermost of them saw; everything before it is anybody's.
    """
    forwarded = [
        entry.strip()
        for name, value in scope["headers"]
        if name.lower() == b"x-forwarded-for"
        for entry in value.decode("latin-1").split(",")
    ]
    peer = (scope.get("client") or ("",))[0]
    text = forwarded[-trusted_proxies] if 0 < trusted_proxies <= len(forwarded) else peer
    try:
        address = ip_address(text)
    except ValueError:
        return str(text)
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or f"{IPv6Address(int(address) >> 64 << 64)}/64")
    return str(address)


def is_this_machine(address: str) -> bool:
    """Whoever runs something here, or a proxy here that nobody has told us to trust: either way, no single client."""
    return address.startswith("127.") or address == f"{IPv6Address(0)}/64"

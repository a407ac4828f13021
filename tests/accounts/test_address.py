from typing import Any

import pytest

from apps.accounts.address import address_of, is_this_machine


def scope(client: str, *forwarded: str) -> dict[str, Any]:
    headers = [(b"host", b"chat.example"), *((b"X-Forwarded-For", each.encode()) for each in forwarded)]
    return {"client": (client, 5_000), "headers": headers}


def test_without_proxies_of_ours_what_a_client_says_of_itself_is_nothing() -> None:
    assert address_of(scope("192.0.2.1", "198.51.100.7"), 0) == "192.0.2.1"


@pytest.mark.parametrize(
    ("forwarded", "proxies", "address"),
    [
        (["198.51.100.7"], 1, "198.51.100.7"),
        (["10.0.0.1, 198.51.100.7"], 1, "198.51.100.7"),  # the first entry is the client's own word
        (["10.0.0.1, 198.51.100.7, 192.0.2.9"], 2, "198.51.100.7"),
        (["10.0.0.1", "198.51.100.7"], 1, "198.51.100.7"),
        ([], 1, "192.0.2.1"),
        (["198.51.100.7"], 2, "192.0.2.1"),
    ],
)
def test_our_proxies_say_whom_they_saw(forwarded: list[str], proxies: int, address: str) -> None:
    assert address_of(scope("192.0.2.1", *forwarded), proxies) == address


def test_an_ipv6_address_stands_for_its_network() -> None:
    assert address_of(scope("2001:db8:1:2:3:4:5:6"), 0) == "2001:db8:1:2::/64"
    assert address_of(scope("::ffff:192.0.2.1"), 0) == "192.0.2.1"


def test_a_client_without_an_address_has_an_empty_one() -> None:
    assert address_of({"client": None, "headers": []}, 0) == ""


@pytest.mark.parametrize(
    ("client", "is_here"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("192.0.2.1", False)],
)
def test_the_machine_itself_is_no_single_client(client: str, is_here: bool) -> None:
    assert is_this_machine(address_of(scope(client), 0)) is is_here

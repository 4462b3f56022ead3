"""Whose request it is: X-Forwarded-For counts as far as trusted proxies wrote it."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iafactory.common import client_address as addresses
from iafactory.common.client_address import address_network, client_address, scope_client_address

PROXIES = ["10.0.0.0/8", "2001:db8:aaaa::/48"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # no proxy of ours: the header is anybody's claim
        ("203.0.113.1", "", "203.0.113.1"),
        ("203.0.113.1", "198.51.100.7", "203.0.113.1"),
        # one proxy, two proxies
        ("10.0.0.1", "203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", "203.0.113.1, 10.0.0.2", "203.0.113.1"),
        ("10.0.0.1", "203.0.113.1,10.0.0.3,10.0.0.2", "203.0.113.1"),
        # what the client wrote itself stands left of what the proxy wrote
        ("10.0.0.1", "198.51.100.7, 203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", "10.0.0.9, 203.0.113.1", "203.0.113.1"),
        # a client inside the trusted network
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        # forms that proxies write
        ("10.0.0.1", "203.0.113.1:51234", "203.0.113.1"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "2001:0DB8:0::1", "2001:db8::1"),
        ("10.0.0.1", "::ffff:203.0.113.1", "203.0.113.1"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        ("::ffff:10.0.0.1", "203.0.113.1", "203.0.113.1"),
        ("2001:db8:aaaa::1", "2001:db8:bbbb::1", "2001:db8:bbbb::1"),
        # garbage ends the reading at the last hop that is known
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1, _hidden", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1, , 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1\x00", "10.0.0.1"),
        ("garbage", "203.0.113.1", ""),
        ("", "203.0.113.1", ""),
        ("", "", ""),
    ],
)
def test_the_client(peer: str, forwarded: str, client: str, settings: Any) -> None:
    settings.TRUSTED_PROXIES = PROXIES

    assert client_address(peer, forwarded) == client


def test_nobody_is_trusted_by_default(settings: Any) -> None:
    assert settings.TRUSTED_PROXIES == []
    assert client_address("127.0.0.1", "203.0.113.1") == "127.0.0.1"


def test_a_proxy_on_a_unix_socket_is_trusted_when_named(settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["unix"]

    assert client_address("", "198.51.100.7, 203.0.113.1") == "203.0.113.1"
    assert client_address("", "") == ""
    assert client_address("203.0.113.9", "198.51.100.7") == "203.0.113.9"


def test_a_wrong_entry_is_named(settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["10.0.0.1/8"]

    with pytest.raises(ImproperlyConfigured, match=r"10\.0\.0\.1/8"):
        client_address("10.0.0.1", "")


@given(st.text(max_size=40), st.text(max_size=200))
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_text_breaks_it(peer: str, forwarded: str) -> None:
    assert isinstance(client_address(peer, forwarded), str)


def test_repeated_headers_are_one_list(settings: Any) -> None:
    settings.TRUSTED_PROXIES = PROXIES
    headers = [(b"x-forwarded-for", b"198.51.100.7"), (b"host", b"x"), (b"x-forwarded-for", b"203.0.113.1")]

    assert scope_client_address({"client": ("10.0.0.1", 1), "headers": headers}) == "203.0.113.1"
    assert scope_client_address({"client": None, "headers": headers}) == ""


@pytest.mark.parametrize(
    ("address", "bits", "network"),
    [
        ("203.0.113.77", {}, "203.0.113.77"),
        ("203.0.113.77", {"v4_bits": 24}, "203.0.113.0/24"),
        ("2001:db8:1:2:3::9", {}, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3::9", {"v6_bits": 48}, "2001:db8:1::/48"),
        ("::ffff:203.0.113.77", {"v4_bits": 24}, "203.0.113.0/24"),
        ("", {}, ""),
    ],
)
def test_the_network_around_an_address(address: str, bits: dict[str, int], network: str) -> None:
    assert address_network(address, **bits) == network


def test_long_headers_are_read_and_never_kept(settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    kept = (addresses._remembered.cache_info().currsize, addresses._parsed.cache_info().currsize)
    padding = ", ".join(["x" * 200] * 5)

    seen = client_address("10.1.1.1", f"{padding}, 198.51.100.77")

    now_kept = (addresses._remembered.cache_info().currsize, addresses._parsed.cache_info().currsize)
    assert seen == "198.51.100.77"
    assert now_kept[0] == kept[0]
    assert now_kept[1] <= kept[1] + 2

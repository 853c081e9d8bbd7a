"""Where webhooks may go."""

import asyncio
import ipaddress

import httpx
import pytest

from app.webhooks.addresses import AddressRefused, addresses_of, check_url, is_public
from tests.app.webhooks.conftest import book

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"]
NOT_PUBLIC = {
    "loopback": ["127.0.0.1", "127.8.8.8", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fec0::1"],
    "link-local": ["169.254.169.254", "fe80::1"],
    "carrier-grade NAT": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "multicast and broadcast": ["224.0.0.1", "239.255.255.255", "255.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "192.0.0.1", "192.0.0.192", "192.88.99.1", "100::1", "5f00::1"],
    "documentation and benchmarks": [
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "2001:db8::1",
        "3fff::1",
    ],
    "metadata of a cloud": ["168.63.129.16", "fd00:ec2::254"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8"],
    "IPv4-compatible": ["::127.0.0.1", "::8.8.8.8"],
    "6to4": ["2002:7f00:1::", "2002:808:808::1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::a00:1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("addresses", NOT_PUBLIC.values(), ids=NOT_PUBLIC.keys())
def test_addresses_that_are_not_public(addresses: list[str]) -> None:
    assert [address for address in addresses if is_public(ipaddress.ip_address(address))] == []


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?token=x",
        "http://example.com:8080",
        "HTTPS://EXAMPLE.com.",
        "https://bücher.example/",
        "https://a_b.example/",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]:8443/",
    ],
)
def test_urls_that_may_be_called(url: str) -> None:
    check_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "//example.com/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "http:example.com",
        "http://user@example.com/",
        "http://user:word@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:http/",
        "http://a..b/",
        "http://.example.com/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 127}example/",
        "http://127%2e0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.0.0.1./",
        "http://[fe80::1%25eth0]/",
        "http://１２７.0.0.1/",
        "http://exa mple.com/",
        "http://example.com/\r\nX: y",
        "http://h\ud800/",
        "http://[::1/",
    ],
)
def test_urls_that_are_called_under_no_setting_and_not_repeated(url: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(ValueError, match=r"^must ") as refusal:
            check_url(url, allow_private)
        assert not url or url not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://queue.localhost/",
    ],
)
def test_urls_of_private_addresses_are_called_only_if_the_setting_says_so(url: str) -> None:
    check_url(url, allow_private=True)
    with pytest.raises(AddressRefused, match="must be a public address"):
        check_url(url, allow_private=False)


def found(url: str, *addresses: str, allow_private: bool = False) -> tuple[list[str], list[tuple[str, int]]]:
    """The addresses for a URL, and what was asked for them."""
    resolve, asked = book(*addresses)
    return asyncio.run(addresses_of(httpx.URL(url), resolve, allow_private=allow_private)), asked


def test_a_host_is_looked_up_once() -> None:
    assert found("https://example.com/", *PUBLIC) == (PUBLIC, [("example.com", 443)])
    assert found("http://bücher.example:81/", PUBLIC[0]) == ([PUBLIC[0]], [("xn--bcher-kva.example", 81)])


def test_an_address_is_not_looked_up() -> None:
    assert found("http://8.8.8.8/") == (["8.8.8.8"], [])
    assert found("http://[2606:4700:4700::1111]/") == (["2606:4700:4700::1111"], [])


def test_one_address_that_is_not_public_is_enough_to_refuse_a_host() -> None:
    for addresses in (["10.0.0.1"], [PUBLIC[0], "::1"], ["fe80::1%eth0", PUBLIC[0]]):
        with pytest.raises(AddressRefused, match="the host has an address that is not public"):
            found("https://example.com/", *addresses)
    assert found("https://example.com/", "10.0.0.1", allow_private=True)[0] == ["10.0.0.1"]


def test_a_host_without_addresses() -> None:
    with pytest.raises(OSError, match="no such host"):
        found("https://example.com/")

"""Which addresses a webhook may go to: those of the public internet, unless a setting allows all.

A URL comes from a user and is called from inside the operator's network, so it could reach what only that network may.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

import httpx

from app.schemas.webhooks import http_url, literal_address

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From a host name and a port to the host's IP addresses, best first; raises OSError where there are none."""

_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; also the metadata service of a cloud
    ipaddress.IPv4Network("192.88.99.0/24"),  # relays of 6to4
    ipaddress.IPv4Network("168.63.129.16/32"),  # the platform service of a cloud, on the public internet by number only
]
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [
    ipaddress.IPv6Network("2001::/23"),  # protocol assignments, among them Teredo
    ipaddress.IPv6Network("2001:db8::/32"),  # documentation
    ipaddress.IPv6Network("2002::/16"),  # 6to4: an IPv4 address of any kind inside
    ipaddress.IPv6Network("3fff::/20"),  # documentation
]


class AddressRefused(ValueError):
    """A webhook may not go there; the message names neither host nor address."""


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one host's on the public internet, and carries no IPv4 address inside an IPv6 one."""
    if isinstance(address, ipaddress.IPv4Address):
        odd = address.is_multicast or address.is_reserved or any(address in net for net in _NOT_PUBLIC_4)
        return address.is_global and not odd
    # All embeddings but 6to4 and Teredo (mapped, compatible, NAT64) lie outside of what is public.
    return address in _PUBLIC_6 and address.is_global and not any(address in net for net in _NOT_PUBLIC_6)


def check_url(url: str, allow_private: bool) -> None:
    """See whether a webhook may go to a URL as far as the URL itself tells, without asking DNS.

    Raises:
        ValueError: it may not; the message repeats nothing of the URL.
    """
    host = http_url(url).host
    if allow_private:
        return
    address = literal_address(host)
    local = host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost")
    if local or (address is not None and not is_public(address)):
        raise AddressRefused("must be a public address")


async def addresses_of(url: httpx.URL, resolve: Resolve, *, allow_private: bool) -> list[str]:
    """The addresses to connect to for a URL, from one look at DNS.

    Raises:
        AddressRefused: one of them is not public.
        OSError: the host has none.
    """
    if literal_address(url.host) is not None:
        found = [url.host]
    else:
        found = await resolve(url.raw_host.decode(), url.port or (443 if url.scheme == "https" else 80))
    if not allow_private and not all(is_public(ipaddress.ip_address(address)) for address in found):
        raise AddressRefused("the host has an address that is not public")
    return found


async def system_resolve(host: str, port: int) -> list[str]:
    """What the system's resolver says; the order is that of RFC 6724."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))

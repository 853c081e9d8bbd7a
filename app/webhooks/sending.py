"""One POST to a URL that a user gave: to the checked address and no other, bounded in time and in what is read."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import httpx

from app import __version__
from app.schemas.webhooks import http_url
from app.webhooks.addresses import AddressRefused, Resolve, addresses_of, check_url, system_resolve

_REPLY_SECONDS = 10.0
_BODY_SECONDS = 1.0
_BODY_BYTES = 4096
_TIMEOUT = httpx.Timeout(_REPLY_SECONDS, connect=4.0)
_HEADERS = {
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"Safemargin/{__version__}",
}


class NoReply(Exception):
    """The receiver cannot be reached or did not answer in time; the message names only the kind of failure."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a receiver answered.

    Attributes:
        status: of HTTP.
        retry_after: that header, as it came.
    """

    status: int
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """Posts bodies to URLs.

    Attributes:
        allow_private: whether any address will do.
        resolve: asks DNS.
    """

    allow_private: bool = False
    resolve: Resolve = system_resolve

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a body, following no redirects.

        Raises:
            AddressRefused: the URL may not be called.
            NoReply: nobody answered within ten seconds.
        """
        try:
            check_url(url, self.allow_private)
        except ValueError as error:
            raise AddressRefused(str(error)) from None
        target = http_url(url)
        try:
            async with asyncio.timeout(_REPLY_SECONDS) as deadline:
                addresses = await addresses_of(target, self.resolve, allow_private=self.allow_private)
                for address in addresses[:-1]:
                    with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                        return await _exchange(_request(target, address, body, headers), deadline)
                return await _exchange(_request(target, addresses[-1], body, headers), deadline)
        except (OSError, httpx.HTTPError) as error:
            raise NoReply(type(error).__name__) from error


def _request(url: httpx.URL, address: str, body: bytes, headers: Mapping[str, str]) -> httpx.Request:
    """A request to a host under an address of it; its certificate must be the host's."""
    return httpx.Request(
        "POST",
        url.copy_with(host=address),
        content=body,
        headers=_HEADERS | {"Host": url.netloc.decode()} | dict(headers),
        extensions={"sni_hostname": url.raw_host.decode(), "timeout": _TIMEOUT.as_dict()},
    )


async def _exchange(request: httpx.Request, deadline: asyncio.Timeout) -> Reply:
    # A client of its own: a pool would take a connection to this address for another host's, certificate unseen.
    async with httpx.AsyncClient(verify=_tls(), trust_env=False, follow_redirects=False) as client:
        response = await client.send(request, stream=True)
        deadline.reschedule(None)  # what matters is here
        await _let_finish(response)
    return Reply(response.status_code, response.headers.get("Retry-After"))


async def _let_finish(response: httpx.Response) -> None:
    """Hear out a receiver that has little more to say, so that it meets no broken connection."""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_BODY_SECONDS):
            await anext(response.aiter_raw(_BODY_BYTES), b"")
    await response.aclose()


@lru_cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()

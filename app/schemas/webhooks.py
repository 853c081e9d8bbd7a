"""Webhooks: where to tell that a job is over, and what is told."""

import ipaddress
import re
from datetime import datetime
from typing import Annotated, Literal

import httpx
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from app.schemas.jobs import Job
from app.schemas.pairs import Strict, Text

EventType = Literal["job.completed", "job.failed", "job.cancelled"]

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_LEGACY_ADDRESS = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?", re.IGNORECASE | re.ASCII)
_LAST_PORT = 65_535


def literal_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a host is written as; None for a name, or for an address of one interface (`%eth0`)."""
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def http_url(text: str) -> httpx.URL:
    """A URL as it will be called, normalised.

    Raises:
        ValueError: it is not an absolute http or https URL, has user information in it, or names its host in a
            notation that is neither a host name nor an IP address as it is usually written.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("must be an http or https URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("must be an http or https URL")
    if url.userinfo:
        raise ValueError("must not hold a user name or a password")
    if url.port is not None and not 0 < url.port <= _LAST_PORT:
        raise ValueError("must have a port between 1 and 65535")
    host = url.raw_host.decode()
    if literal_address(host) is None and (not _HOST_NAME.fullmatch(host) or _LEGACY_ADDRESS.fullmatch(host)):
        raise ValueError("must name a host, or an IP address in its usual notation")
    return url


def _callable(text: str) -> str:
    http_url(text)
    return text


class Webhook(Strict):
    """Whom to tell when a job is over."""

    url: Annotated[Text, StringConstraints(max_length=2048), AfterValidator(_callable)] = Field(
        description="An http or https URL of a public host; it gets a POST signed as Standard Webhooks say."
    )


class Announced(Strict):
    """A request whose job's end may be told of."""

    webhook: Webhook | None = Field(default=None, description="Whom to tell when the job is over, if it becomes a job.")


class JobEvent(BaseModel):
    """The body of a webhook."""

    type: EventType
    timestamp: datetime = Field(description="When the job was over.")
    data: Job = Field(description="The job as `GET /jobs/{id}` shows it.")

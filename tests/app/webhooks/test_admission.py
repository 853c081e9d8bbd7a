"""What becomes of a webhook when a request brings it."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app import errors
from app.schemas.pairs import Strict
from app.schemas.webhooks import Webhook
from app.settings import Settings
from app.webhooks.admission import admitted


class Request(Strict):
    """A request as those that make jobs will be."""

    webhook: Webhook | None = None


def client(**settings: Any) -> TestClient:
    """An application that answers the URL it would keep."""
    app, config = FastAPI(), Settings().model_copy(update=settings)
    errors.install(app)

    @app.post("/")
    async def keep(request: Request) -> str | None:
        return admitted(request.webhook, config)

    return TestClient(app)


def test_a_public_url_is_kept_as_it_was_written() -> None:
    answer = client().post("/", json={"webhook": {"url": "https://Example.com/Hook?of=me"}})
    assert (answer.status_code, answer.json()) == (200, "https://Example.com/Hook?of=me")


def test_a_request_needs_none() -> None:
    assert client().post("/", json={}).json() is None


@pytest.mark.parametrize(
    ("webhook", "pointer"),
    [
        ({"url": "ftp://example.com/secret"}, "/webhook/url"),
        ({"url": "http://secret@example.com/"}, "/webhook/url"),
        ({"url": "http://10.0.0.1/secret"}, "/webhook/url"),
        ({"url": "http://localhost/secret"}, "/webhook/url"),
        ({"url": "https://example.com/" + "secret" * 400}, "/webhook/url"),
        ({"url": "https://example.com/\x00secret"}, "/webhook/url"),
        ({"url": 5}, "/webhook/url"),
        ({}, "/webhook/url"),
        ({"url": "https://example.com/", "events": "secret"}, "/webhook/events"),
    ],
)
def test_what_would_never_be_delivered_is_refused_at_once(webhook: dict[str, Any], pointer: str) -> None:
    answer = client().post("/", json={"webhook": webhook})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert "secret" not in answer.text


def test_a_private_address_is_admitted_where_the_setting_says_so() -> None:
    answer = client(webhook_private=True).post("/", json={"webhook": {"url": "http://10.0.0.1/"}})
    assert (answer.status_code, answer.json()) == (200, "http://10.0.0.1/")

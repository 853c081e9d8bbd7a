"""What is noted of every request: an id, a line of log, a count and a time."""

import logging
import re
import secrets
import time
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import REASON
from app.log import event, request_id
from app.metrics import Metrics

log = logging.getLogger("safemargin.api")

_HEADER = b"x-request-id"
_FORM = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PROBES = frozenset({"/livez", "/readyz", "/metrics", "/metrics/workers"})
"""Routes that machines ask every few seconds: a line for each would be all that a log holds."""


class Access:
    """ASGI middleware around everything else.

    A client may name its request with `X-Request-ID`; any other is given an id, and every answer says it.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it ended."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        own = _named(scope) or secrets.token_hex(8)
        request_id.set(own)  # never reset: every request is a task of its own, and an error is answered further out
        status, started = int(HTTPStatus.INTERNAL_SERVER_ERROR), time.perf_counter()
        ended: float | None = None

        async def observe(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (_HEADER, own.encode())]}
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                ended = time.perf_counter()

        try:
            await self._app(scope, receive, observe)
        except Exception:
            scope[REASON] = "bug"
            raise
        finally:
            self._note(scope, status, (ended or time.perf_counter()) - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = _asked(scope)
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
        if route in _PROBES:
            return
        why = {}
        if status >= HTTPStatus.BAD_REQUEST:
            why["reason"] = scope.get(REASON, HTTPStatus(status).name.lower())
            self._metrics.errors.labels(why["reason"]).inc()
        event(log, "request", method=method, route=route, status=status, seconds=round(seconds, 6), **why)


def _asked(scope: Scope) -> tuple[str, str]:
    """Method and route, each one of a few: a client may send any word for a method, and any path."""
    found = scope.get("route")
    known = scope["method"] in (getattr(found, "methods", None) or ())
    return scope["method"] if known else "any", getattr(found, "path", "unmatched")


def _named(scope: Scope) -> str | None:
    """The id that the client gave its request, if it is one that a log can hold."""
    for name, value in scope["headers"]:
        if name == _HEADER:
            text = value.decode("latin-1")
            return text if _FORM.fullmatch(text) else None
    return None

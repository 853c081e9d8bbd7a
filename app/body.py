"""Request bodies: bounded while they stream in, parsed once, faults located by field."""

import json
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import UnsupportedMedia, problem_response


class BodyLimit:
    """ASGI middleware that answers 413 to a body over `limit` bytes, announced or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._limit:
            return await self._refuse(scope, receive, send)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                return await self._refuse(scope, receive, send)
        return await self._app(scope, _replay(bytes(body), receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = problem_response(
            413, f"the body is larger than {self._limit} bytes", headers={"Connection": "close"}
        )
        await response(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive channel that gives a body already read, then whatever comes next (a disconnect)."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class JsonRequest(Request):
    """A request whose JSON body is parsed by orjson.

    What orjson refuses for a fault inside a string (invalid UTF-8, a lone surrogate) is parsed leniently instead, so
    that validation can name the field that holds it.
    """

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            json.JSONDecodeError: it is not JSON.
        """
        body = await self.body()
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
        try:
            return json.loads(body.decode("utf-8", "surrogateescape"))
        except RecursionError as error:
            raise json.JSONDecodeError("nested too deeply", "", 0) from error


class JsonRoute(APIRoute):
    """A route that reads its body through `JsonRequest`."""

    def get_route_handler(self) -> Any:
        """The handler, with the request class exchanged."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Any:
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and media_type != "application/json":
                raise UnsupportedMedia("the body must be sent as Content-Type: application/json")
            return await handler(JsonRequest(request.scope, request.receive))

        return handle

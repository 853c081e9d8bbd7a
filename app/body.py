"""Request bodies: read from callers alone, bounded while they stream in, parsed once, faults located by field."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.caller import caller_of
from app.errors import ApiError, UnsupportedMedia, problem_response


class TooLarge(ApiError):
    """The body is larger than allowed."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BodyLimit:
    """ASGI middleware that answers 413 to a body over a limit, announced or not, and reads none that nobody asks for.

    An answer that is given before the body has come ends the connection: who is refused does not go on sending.

    Args:
        app: the application.
        limit: bytes of a body.
        streams: bytes of a body for paths whose bodies are streams.
    """

    def __init__(self, app: ASGIApp, limit: int, streams: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._streams.get(scope["path"], self._limit)
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        unread = announced != b"0" or b"transfer-encoding" in headers
        passed = 0

        async def counted() -> Message:
            nonlocal passed, unread
            message = await receive()
            passed += len(message.get("body", b""))
            unread = message.get("more_body", False)
            if passed > limit:
                raise TooLarge(_too_large(limit))
            return message

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and unread:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        if announced.isdigit() and int(announced) > limit:
            return await problem_response(413, _too_large(limit))(scope, receive, closing)
        return await self._app(scope, counted, closing)


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit} bytes"


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
    """A route that reads its body through `JsonRequest`, and nothing of it from strangers."""

    def get_route_handler(self) -> Any:
        """The handler, with the request class exchanged."""
        handler = super().get_route_handler()

        async def handle(plain: Request) -> Any:
            request = JsonRequest(plain.scope, plain.receive)
            if request.method in {"POST", "PUT"}:
                await caller_of(request)
                media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if request.method == "POST" and media_type != "application/json":
                    raise UnsupportedMedia("the body must be sent as Content-Type: application/json")
                await request.body()  # here, because FastAPI would take any error for one in the JSON
            return await handler(request)

        return handle

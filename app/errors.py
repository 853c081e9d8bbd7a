"""Errors that the API answers, and how they become application/problem+json.

    ApiError             a status, a title and a detail; the routes raise it
    ├── Unauthorized     401 no API key, or none that is known
    ├── Forbidden        403 a key without the scope
    ├── NotFound         404 unknown direction, file or job
    ├── Gone             410 a job whose results have expired
    ├── NotReady         409 results asked for before the job is done
    ├── Conflict         409 what exists stands in the way
    ├── UnsupportedMedia 415 a body that is not sent as JSON
    ├── Unprocessable    422 pairs that cannot be annotated
    ├── OverQuota        429 a key has used up its tokens; says when to come back
    └── Unavailable      503 no worker, no queue; says when to come back

Nothing that a user sent is ever repeated in an answer, except names of fields.
"""

import errno
import logging
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Self

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.artifacts import StoreUnreachable
from app.jobs.paging import PageMissing
from app.jobs.submission import QueueFull
from app.log import request_id
from app.schemas.alignment import TARGET_KINDS
from app.schemas.annotate import DIRECTION_KINDS
from app.schemas.fit import PAIRS_KINDS, RECIPES
from app.schemas.pairs import PROMPT_KINDS
from app.schemas.problem import FieldProblem, Problem, said
from app.schemas.training import KINDS, METHODS

log = logging.getLogger("safemargin.api")

MEDIA_TYPE = "application/problem+json"
REASON = "reason"
"""Where a request's scope says why it was refused, if its status does not."""

_UNION_TAGS = {
    "prompt": PROMPT_KINDS,
    "direction": DIRECTION_KINDS,
    "pairs": PAIRS_KINDS,
    "targets": TARGET_KINDS,
}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


TAKEN = "is taken; `replace` allows to replace it"
"""What is wrong with an id that stands for something already."""


class ApiError(Exception):
    """An answer other than success."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(
        self, detail: str, *, errors: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})

    @classmethod
    def at(cls, pointer: str, code: str, detail: str, whole: str | None = None) -> Self:
        """The error of one field; `whole` says what that means for the request, where it is more than `detail`."""
        return cls(whole or detail, errors=[FieldProblem(pointer=pointer, code=code, detail=detail)])


class Unauthorized(ApiError):
    """Nobody known calls."""

    status = HTTPStatus.UNAUTHORIZED


class Forbidden(ApiError):
    """Who calls may not do this."""

    status = HTTPStatus.FORBIDDEN


class NotFound(ApiError):
    """The named thing does not exist."""

    status = HTTPStatus.NOT_FOUND


class Gone(ApiError):
    """The named thing existed and has expired."""

    status = HTTPStatus.GONE


class NotReady(ApiError):
    """The job is not done yet."""

    status = HTTPStatus.CONFLICT


class Conflict(ApiError):
    """What exists stands in the way."""

    status = HTTPStatus.CONFLICT


class Unprocessable(ApiError):
    """The request is well-formed, but cannot be answered."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


def invalid(pointer: str, code: str, detail: str) -> Unprocessable:
    """One field of a request is not valid."""
    return Unprocessable.at(pointer, code, detail, "the request is not valid")


class UnsupportedMedia(ApiError):
    """The body is not sent as JSON."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class OverQuota(ApiError):
    """Who calls has used up what they may use now."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class Unavailable(ApiError):
    """The service cannot answer now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


def problem_response(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
    background: BackgroundTask | None = None,
) -> JSONResponse:
    """A problem document as a response."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    return JSONResponse(problem.model_dump(), status, dict(headers or {}), MEDIA_TYPE, background)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RedisError, _queue_error)
    app.add_exception_handler(QueueFull, _queue_full)
    app.add_exception_handler(PageMissing, _page_missing)
    app.add_exception_handler(StoreUnreachable, _store_error)
    app.add_exception_handler(ClientDisconnect, _cut_off)
    app.add_exception_handler(OSError, _disk_error)
    app.add_exception_handler(Exception, _bug)


def _api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return problem_response(error.status, error.detail, errors=error.errors, headers=error.headers)


def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem_response(error.status_code, str(error.detail), headers=error.headers)


def _queue_error(request: Request, error: Exception) -> JSONResponse:
    request.scope[REASON] = "queue_away"
    log.warning("the queue does not answer: %s", error)
    return problem_response(503, "the queue does not answer", headers={"Retry-After": "5"})


def _queue_full(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QueueFull)
    request.scope[REASON] = "queue_full"
    headers = {"Retry-After": str(math.ceil(error.seconds))}
    return problem_response(503, "the queue is full", headers=headers)


def _page_missing(_request: Request, _error: Exception) -> JSONResponse:
    detail = "is not in the list, or not any more: begin with the first page"
    error = FieldProblem(pointer="query/after", code="unknown_page", detail=detail)
    return problem_response(422, "the request is not valid", errors=[error])


def _store_error(request: Request, error: Exception) -> JSONResponse:
    request.scope[REASON] = "store_away"
    log.warning("%s", error)
    return problem_response(503, "the artifact store does not answer", headers={"Retry-After": "5"})


def _cut_off(_request: Request, _error: Exception) -> JSONResponse:
    return problem_response(400, "the body was cut off")


def _disk_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        raise error
    request.scope[REASON] = "disk_full"
    log.error("no room for temporary files: %s", error.strerror)
    return problem_response(503, "there is no room for this now", headers={"Retry-After": "30"})


def _bug(_request: Request, _error: Exception) -> JSONResponse:
    headers = {"X-Request-ID": request_id.get()}  # answered outside of all middleware
    return problem_response(500, "an unexpected error; the service's log has it", headers=headers)


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [_field_problem(entry) for entry in error.errors()]
    if any(entry.code == "json_invalid" for entry in errors):
        return problem_response(400, "the body is not JSON", errors=errors)
    return problem_response(422, "the request is not valid", errors=errors)


def _field_problem(entry: Mapping[str, Any]) -> FieldProblem:
    source, *path = entry["loc"] or ("body",)
    code = str(entry["type"])
    if code == "json_invalid":
        return FieldProblem(pointer="", code=code, detail=str(entry["msg"]))
    parts = [_name(part) for part in _fields(path, code)]
    context = entry.get("ctx", {})
    if field := context.get("field", context.get("discriminator", "").strip("'")):
        parts.append(str(field))
    pointer = "".join(f"/{part}" for part in parts) if source == "body" else "/".join([source, *parts])
    return FieldProblem(pointer=pointer, code=code, detail=said(entry))


def _fields(path: Sequence[str | int], code: str) -> list[str | int]:
    """A location without the tags of unions that pydantic puts into it; an unknown field may be called like one."""
    end = len(path) - (code == "extra_forbidden")
    tags = {i for i in range(1, end) if path[i] in _UNION_TAGS.get(str(path[i - 1]), ())}
    tags |= {i for i in range(2, end) if path[i - 2] == "sources" and path[i] in RECIPES}
    if end and path[0] in METHODS:
        tags |= {0, 1} if end > 1 and path[1] in KINDS else {0}
    return [part for i, part in enumerate(path) if i not in tags]


def _name(part: str | int) -> str:
    """A field's name; one that is no plain name could carry text and is not repeated."""
    text = str(part)
    return text if _PLAIN_NAME.fullmatch(text) else "(unnamed)"

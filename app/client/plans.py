"""What the client asks, in which order, and what it makes of the answers: no input or output happens here.

A plan is a generator. It yields calls and pauses, is sent the successful response to each call, and returns its
result. `persistent` turns it into one that also tries again, and is sent whatever came of a call.
"""

import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from app.client.retries import Call, Pause, Retries, refusal
from app.schemas.files import File
from app.schemas.jobs import Job
from app.schemas.pairs import Pair

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Plan = Generator[Call | Pause, Any, T]
PairLike = Pair | Mapping[str, Any]
Source = str | Path | BinaryIO | Callable[[], Iterator[bytes]]

POLL_SECONDS = 20.0
_PROGRESS_SECONDS = 2.0
_PIECE = 1 << 16


def persistent(plan: Plan[T], retries: Callable[[], Retries]) -> Plan[T]:
    """The plan, with every call made again while that is worth it; is sent a response or an `httpx.RequestError`."""
    answer: httpx.Response | None = None
    while True:
        try:
            step = plan.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = (yield step) if isinstance(step, Pause) else (yield from _insist(step, retries()))


def _insist(call: Call, retries: Retries) -> Plan[httpx.Response]:
    while True:
        outcome = yield call
        if isinstance(outcome, httpx.Response) and (outcome.is_success or _in_hand(call, outcome)):
            return outcome
        yield retries.pause(outcome)


def _in_hand(call: Call, response: httpx.Response) -> bool:
    """Whether the answer says that the same request, sent before, is a job already, or that a job is over already."""
    return response.status_code == 409 and (call.method == "DELETE" or "location" in response.headers)


def answered(path: str, body: Mapping[str, Any], model: type[M]) -> Plan[M]:
    """POST what is answered at once, or with a job to follow."""
    response = yield _post(path, json=dict(body))
    if response.status_code not in {202, 409}:
        return _read(model, response)
    job = yield from finished(_job_of(response))
    response = yield Call("GET", f"{job_path(job.id)}/results", headers={"Accept": "application/json"})
    return _read(model, response)


def uploaded(source: Source) -> Plan[File]:
    """POST a file."""
    response = yield _post("/files", body=_pieces(source), headers={"Content-Type": "application/octet-stream"})
    return _read(File, response)


def submitted(file_id: str, options: Mapping[str, Any]) -> Plan[Job]:
    """POST a job that annotates a file."""
    response = yield _post("/jobs", json={"file": file_id, **options})
    return _read(Job, response) if response.is_success else (yield from looked_up(_job_of(response)))


def looked_up(job_id: str, wait: float = 0) -> Plan[Job]:
    """GET a job."""
    response = yield Call("GET", job_path(job_id), {"wait": wait} if wait else {})
    return _read(Job, response)


def finished(job_id: str, on_progress: Callable[[Job], object] | None = None) -> Plan[Job]:
    """GET a job until it is over."""
    wait = _PROGRESS_SECONDS if on_progress else POLL_SECONDS
    while True:
        response = yield Call("GET", job_path(job_id), {"wait": wait})
        job = _read(Job, response)
        if on_progress:
            on_progress(job)
        if job.status != "in_progress":
            return job
        yield Pause(min(_number(response.headers.get("retry-after")), wait))


def found(path: str, model: type[M]) -> Plan[M]:
    """GET a document."""
    return _read(model, (yield Call("GET", path)))


def cancelled(job_id: str) -> Plan[None]:
    """DELETE a job, but none that is over: it may have ended meanwhile, or by this request, sent before."""
    yield Call("DELETE", job_path(job_id), {"cancel": "true"})


def job_path(job_id: str) -> str:
    """Where a job lives."""
    return f"/jobs/{quote(job_id, safe='')}"


def as_json(pairs: Sequence[PairLike]) -> list[dict[str, Any]]:
    """Pairs as a request body has them."""
    return [pair.model_dump(exclude_none=True) if isinstance(pair, Pair) else dict(pair) for pair in pairs]


def _post(path: str, **content: Any) -> Call:
    headers = {**content.pop("headers", {}), "Idempotency-Key": str(uuid.uuid4())}
    return Call("POST", path, headers=headers, **content)


def _read(model: type[M], response: httpx.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise refusal(response, f"the answer is no {model.__name__}: is this the service?") from None


def _job_of(response: httpx.Response) -> str:
    return str(response.headers.get("location", "")).rstrip("/").rpartition("/")[2]


def _number(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() else 0.0


def _pieces(source: Source) -> Callable[[], Iterator[bytes]]:
    if callable(source):
        return source
    if isinstance(source, str | Path):
        return lambda: _read_path(Path(source))
    start = source.tell()
    return lambda: _read_file(source, start)


def _read_path(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from _read_file(file, 0)


def _read_file(file: BinaryIO, start: int) -> Iterator[bytes]:
    file.seek(start)
    while piece := file.read(_PIECE):
        yield piece

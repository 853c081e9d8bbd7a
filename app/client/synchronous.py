"""The client for programs without an event loop."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from app.client import plans
from app.client.plans import PairLike, Plan, Source
from app.client.retries import Call, Outcome, Pause, Retries
from app.client.streams import Errors, Format, Parquet, ResultLine, Results, Splitter
from app.schemas.annotate import DEFAULT, AnnotateResponse
from app.schemas.directions import DirectionList
from app.schemas.files import File
from app.schemas.jobs import Job
from app.schemas.score import ScoreResponse

T = TypeVar("T")
_TIMEOUT = httpx.Timeout(90.0, connect=10.0)


class Client:
    """Speaks to one service.

    Every method raises `ServiceError` where the service refuses and `Unreachable` where it does not answer. What may
    pass (a lost connection, 429, 502, 503, 504) is tried again, and never doubles work.

    Args:
        url: where the service is.
        api_key: sent as bearer token; SAFEMARGIN_API_KEY where left out.
        patience: seconds that a call goes on failing before it raises.
        transport: what carries requests instead of the network.
        sleep: waits that many seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        patience: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.Client(transport=transport, **connection(url, api_key))
        self._sleep = sleep
        self._retries: Callable[[], Retries] = lambda: Retries(patience, clock)

    def annotate(
        self,
        pairs: Sequence[PairLike],
        *,
        direction: str | list[str] = DEFAULT,
        truncate: bool = False,
        **options: Any,
    ) -> AnnotateResponse:
        """Margins of pairs, one entry a pair in order; a job where that takes long is followed to its end.

        `options` are the others of POST /annotate, such as `method`, `reward_model`, `explain` and `rules`.
        """
        body = {"pairs": plans.as_json(pairs), "direction": direction, "truncate": truncate, **options}
        return self._run(plans.answered("/annotate", body, AnnotateResponse))

    def score(
        self,
        prompt: str | list[dict[str, str]],
        responses: Sequence[str],
        *,
        direction: str | list[str] = DEFAULT,
        truncate: bool = False,
        **options: Any,
    ) -> ScoreResponse:
        """Scores of responses to one prompt, and their order; `options` are `method` and `reward_model`."""
        body = {"prompt": prompt, "responses": list(responses), "direction": direction, "truncate": truncate, **options}
        return self._run(plans.answered("/score", body, ScoreResponse))

    def upload(self, source: Source) -> File:
        """Send a file of pairs, piece by piece.

        Args:
            source: a path, a seekable file at the place to start from, or what opens the content for each try.
        """
        return self._run(plans.uploaded(source))

    def submit(self, file_id: str, **options: Any) -> Job:
        """Start to annotate a file; `options` are those of POST /jobs, such as `direction` and `truncate`."""
        return self._run(plans.submitted(file_id, options))

    def job(self, job_id: str, *, wait: float = 0) -> Job:
        """Where a job stands, at once or as soon as it is over, at most `wait` (≤ 60) seconds from now."""
        return self._run(plans.looked_up(job_id, wait))

    def wait(self, job_id: str, on_progress: Callable[[Job], object] | None = None) -> Job:
        """Wait until a job is over; `on_progress` sees it every few seconds and at the end."""
        return self._run(plans.finished(job_id, on_progress))

    def results(self, job_id: str, cursor: int = 0, format: Format = "raw") -> Iterator[dict[str, Any]]:
        """Annotated rows behind line `cursor`, in order, each once even if connections break.

        Of a job in progress these are the rows that are ready.
        """
        return (line.row for line in self.result_lines(job_id, cursor, format))

    def result_lines(self, job_id: str, cursor: int = 0, format: Format = "raw") -> Iterator[ResultLine]:
        """The same with the line and the provenance of every row, which only `raw` rows carry themselves."""
        return self._lines(Results(job_id, cursor, format, self._retries()))

    def errors(self, job_id: str, cursor: int = 0) -> Iterator[dict[str, Any]]:
        """Rows behind line `cursor` that could not be annotated, in order, each once: line, id, code, detail."""
        return self._lines(Errors(job_id, cursor, self._retries()))

    def parquet(self, job_id: str, to: BinaryIO, format: Format = "raw") -> None:
        """Write all annotated rows as one Parquet file to `to`, which must be empty and seekable."""
        reading = Parquet(job_id, format, to, self._retries())
        while True:
            try:
                with self._open(reading.call()) as response:
                    reading.begin()
                    for piece in response.iter_bytes():
                        reading.take(piece)
                return reading.close()
            except (httpx.RequestError, httpx.HTTPStatusError) as error:
                pause = reading.retries.pause(outcome(error))
            self._sleep(pause.seconds)

    def cancel(self, job_id: str) -> None:
        """Stop a job; one that is over stays as it is."""
        self._run(plans.cancelled(job_id))

    def directions(self) -> DirectionList:
        """Directions that can be used now."""
        return self._run(plans.found("/directions", DirectionList))

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close connections."""
        self.close()

    def _run(self, plan: Plan[T]) -> T:
        steps, came = plans.persistent(plan, self._retries), None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            came = self._do(step)

    def _do(self, step: Call | Pause) -> Outcome | None:
        if isinstance(step, Pause):
            self._sleep(step.seconds)
            return None
        try:
            return self._http.send(self._request(step))
        except httpx.RequestError as error:
            return error

    def _request(self, call: Call) -> httpx.Request:
        body = call.body() if call.body else None
        return self._http.build_request(
            call.method, call.path, params=call.params, headers=call.headers, json=call.json, content=body
        )

    def _lines(self, reading: "Results | Errors") -> Iterator[Any]:
        while True:
            try:
                with ExitStack() as opened:
                    streams = [_split(opened.enter_context(self._open(call))) for call in reading.calls()]
                    for texts in zip(*streams, strict=False):
                        yield from reading.take(texts)
                return
            except (httpx.RequestError, httpx.HTTPStatusError) as error:
                pause = reading.retries.pause(outcome(error))
            self._sleep(pause.seconds)

    @contextmanager
    def _open(self, call: Call) -> Iterator[httpx.Response]:
        response = self._http.send(self._request(call), stream=True)
        try:
            if not response.is_success:
                response.read()
                response.raise_for_status()
            yield response
        finally:
            response.close()


def connection(url: str, api_key: str | None) -> dict[str, Any]:
    """What httpx needs to know of a service: the environment's proxies lead to others, never to this machine."""
    key = os.environ.get("SAFEMARGIN_API_KEY") if api_key is None else api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    own = urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}
    return {"base_url": url, "headers": headers, "timeout": _TIMEOUT, "trust_env": not own}


def outcome(error: httpx.RequestError | httpx.HTTPStatusError) -> Outcome:
    """What came of opening or reading a stream."""
    return error.response if isinstance(error, httpx.HTTPStatusError) else error


def _split(response: httpx.Response) -> Iterator[bytes]:
    splitter = Splitter()
    for piece in response.iter_bytes():
        yield from splitter.feed(piece)
    splitter.close()

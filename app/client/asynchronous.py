"""The client for programs with an event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx

from app.client import plans
from app.client.plans import PairLike, Plan, Source
from app.client.retries import Call, Outcome, Pause, Retries
from app.client.streams import Errors, Format, Parquet, ResultLine, Results, Splitter
from app.client.synchronous import connection, outcome
from app.schemas.annotate import DEFAULT, AnnotateResponse
from app.schemas.directions import DirectionList
from app.schemas.files import File
from app.schemas.jobs import Job
from app.schemas.score import ScoreResponse

T = TypeVar("T")


class AsyncClient:
    """`Client` to be awaited; its methods are described there."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        patience: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **connection(url, api_key))
        self._sleep = sleep
        self._retries: Callable[[], Retries] = lambda: Retries(patience, clock)

    async def annotate(
        self,
        pairs: Sequence[PairLike],
        *,
        direction: str | list[str] = DEFAULT,
        truncate: bool = False,
        **options: Any,
    ) -> AnnotateResponse:
        """Margins of pairs."""
        body = {"pairs": plans.as_json(pairs), "direction": direction, "truncate": truncate, **options}
        return await self._run(plans.answered("/annotate", body, AnnotateResponse))

    async def score(
        self,
        prompt: str | list[dict[str, str]],
        responses: Sequence[str],
        *,
        direction: str | list[str] = DEFAULT,
        truncate: bool = False,
        **options: Any,
    ) -> ScoreResponse:
        """Scores of responses to one prompt."""
        body = {"prompt": prompt, "responses": list(responses), "direction": direction, "truncate": truncate, **options}
        return await self._run(plans.answered("/score", body, ScoreResponse))

    async def upload(self, source: Source) -> File:
        """Send a file of pairs."""
        return await self._run(plans.uploaded(source))

    async def submit(self, file_id: str, **options: Any) -> Job:
        """Start to annotate a file."""
        return await self._run(plans.submitted(file_id, options))

    async def job(self, job_id: str, *, wait: float = 0) -> Job:
        """Where a job stands."""
        return await self._run(plans.looked_up(job_id, wait))

    async def wait(self, job_id: str, on_progress: Callable[[Job], object] | None = None) -> Job:
        """Wait until a job is over."""
        return await self._run(plans.finished(job_id, on_progress))

    async def results(self, job_id: str, cursor: int = 0, format: Format = "raw") -> AsyncIterator[dict[str, Any]]:
        """Annotated rows behind line `cursor`."""
        async for line in self.result_lines(job_id, cursor, format):
            yield line.row

    def result_lines(self, job_id: str, cursor: int = 0, format: Format = "raw") -> AsyncIterator[ResultLine]:
        """The same with line and provenance."""
        return self._lines(Results(job_id, cursor, format, self._retries()))

    def errors(self, job_id: str, cursor: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Rows behind line `cursor` that could not be annotated."""
        return self._lines(Errors(job_id, cursor, self._retries()))

    async def parquet(self, job_id: str, to: BinaryIO, format: Format = "raw") -> None:
        """Write all annotated rows as one Parquet file."""
        reading = Parquet(job_id, format, to, self._retries())
        while True:
            try:
                async with self._open(reading.call()) as response:
                    reading.begin()
                    async for piece in response.aiter_bytes():
                        reading.take(piece)
                return reading.close()
            except (httpx.RequestError, httpx.HTTPStatusError) as error:
                pause = reading.retries.pause(outcome(error))
            await self._sleep(pause.seconds)

    async def cancel(self, job_id: str) -> None:
        """Stop a job; one that is over stays as it is."""
        await self._run(plans.cancelled(job_id))

    async def directions(self) -> DirectionList:
        """Directions that can be used now."""
        return await self._run(plans.found("/directions", DirectionList))

    async def aclose(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close connections."""
        await self.aclose()

    async def _run(self, plan: Plan[T]) -> T:
        steps, came = plans.persistent(plan, self._retries), None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            came = await self._do(step)

    async def _do(self, step: Call | Pause) -> Outcome | None:
        if isinstance(step, Pause):
            await self._sleep(step.seconds)
            return None
        try:
            return await self._http.send(self._request(step))
        except httpx.RequestError as error:
            return error

    def _request(self, call: Call) -> httpx.Request:
        body = _in_threads(call.body()) if call.body else None
        return self._http.build_request(
            call.method, call.path, params=call.params, headers=call.headers, json=call.json, content=body
        )

    async def _lines(self, reading: "Results | Errors") -> AsyncIterator[Any]:
        while True:
            try:
                async with AsyncExitStack() as opened:
                    calls = reading.calls()
                    streams = [_split(await opened.enter_async_context(self._open(call))) for call in calls]
                    while texts := await _next_of_each(streams):
                        for row in reading.take(texts):
                            yield row
                return
            except (httpx.RequestError, httpx.HTTPStatusError) as error:
                pause = reading.retries.pause(outcome(error))
            await self._sleep(pause.seconds)

    @asynccontextmanager
    async def _open(self, call: Call) -> AsyncIterator[httpx.Response]:
        response = await self._http.send(self._request(call), stream=True)
        try:
            if not response.is_success:
                await response.aread()
                response.raise_for_status()
            yield response
        finally:
            await response.aclose()


async def _next_of_each(streams: Sequence[AsyncIterator[bytes]]) -> tuple[bytes, ...]:
    """The next line of every stream; nothing once one has ended."""
    try:
        return tuple([await anext(stream) for stream in streams])
    except StopAsyncIteration:
        return ()


async def _split(response: httpx.Response) -> AsyncIterator[bytes]:
    splitter = Splitter()
    async for piece in response.aiter_bytes():
        for line in splitter.feed(piece):
            yield line
    splitter.close()


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece

"""The client against a service without a network, in both its forms."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from app.client import AsyncClient, Client, ServiceError
from app.schemas.pairs import Pair
from tests.app.client.service import Clock, Service, dataset, problem

T = TypeVar("T")
PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
RAW = {"margin": 1, "chosen": 1, "rejected": 0}
MARGIN = {"margin": 1, "probability": 0.7, "level": 3, "label_conflict": False, "raw": RAW}
TOKENS = {"prompt": 1, "chosen": 1, "rejected": 1}
MADE = {
    **dict.fromkeys(("model", "model_revision", "template", "direction", "direction_digest"), "x"),
    **{"calibrated": True, "unreliable": False, "layers": [1], "pooling": "mean", "dtype": "float32", "version": "1"},
}
ANSWER = {"annotations": [{"id": "0", "truncated": False, "tokens": TOKENS, **MARGIN}], "provenance": MADE}


class Both:
    """The two clients as one: what is asked of it, it asks as `Client` or as `AsyncClient`."""

    def __init__(self, service: Service, *, asynchronous: bool, **options: Any) -> None:
        self.clock = Clock()
        self._transport = httpx.MockTransport(service)
        self._asynchronous = asynchronous
        self._options = {"clock": self.clock, "transport": self._transport, **options}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*arguments: Any, **options: Any) -> Any:
            if self._asynchronous:
                return asyncio.run(self._ask(name, arguments, options))
            with Client("http://test", sleep=self.clock.sleep, **self._options) as client:
                answer = getattr(client, name)(*arguments, **options)
                return list(answer) if hasattr(answer, "__next__") else answer

        return ask

    async def _ask(self, name: str, arguments: Any, options: Any) -> Any:
        async with AsyncClient("http://test", sleep=self.clock.asleep, **self._options) as client:
            answer: AsyncIterator[Any] | Coroutine[Any, Any, Any] = getattr(client, name)(*arguments, **options)
            return [row async for row in answer] if isinstance(answer, AsyncIterator) else await answer


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def both(service: Service, request: pytest.FixtureRequest) -> Both:
    return Both(service, asynchronous=request.param)


def job_of(both: Both, content: bytes) -> str:
    """A finished job that annotates this."""
    job_id: str = both.submit(both.upload(io.BytesIO(content)).id).id
    both.wait(job_id)
    return job_id


def lines(rows: list[dict[str, Any]]) -> list[int]:
    return [row["line"] for row in rows]


def test_annotate_takes_pairs_as_models_or_mappings(both: Both, service: Service) -> None:
    service.faults = [httpx.Response(200, json=ANSWER)] * 2
    assert both.annotate([PAIR], direction="mine").annotations[0].margin == 1
    assert both.annotate([Pair.model_validate(PAIR)], truncate=True).provenance.model == "x"
    bodies = [json.loads(request.read()) for request in service.asked]
    assert bodies[0] == {"pairs": [PAIR], "direction": "mine", "truncate": False}
    assert bodies[1] == {"pairs": [PAIR], "direction": "default", "truncate": True}


@pytest.mark.parametrize("status", [202, 409])
def test_annotate_follows_the_job_that_is_or_was_made_of_it(both: Both, service: Service, status: int) -> None:
    job_id = job_of(both, dataset(1))
    accepted = problem(status, "in progress", Location=f"http://proxy/{job_id}", Retry_After="1")

    def answers(job: dict[str, Any]) -> None:
        service.faults = [httpx.Response(200, json=ANSWER)]

    service.faults, service.on_look = [accepted], answers
    assert both.annotate([PAIR]).annotations[0].id == "0"
    assert service.asked[-1].url.path == f"/jobs/{job_id}/results"
    assert service.asked[-1].headers["accept"] == "application/json"


def test_score_orders_responses(both: Both, service: Service) -> None:
    score = {"index": 0, "rank": 1, "score": 1, "raw": 1, "tokens": 2}
    service.faults = [
        httpx.Response(200, json={"scores": [score], "order": [0], "truncated": False, "provenance": MADE})
    ]
    assert both.score("Why?", ["So."]).order == [0]


def test_every_try_of_a_post_has_the_same_key_and_content_and_every_post_its_own(
    both: Both, service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(dataset(3))
    service.faults = [httpx.ReadError("lost"), problem(503, "busy")]
    both.upload(path)
    both.upload(str(path))
    keys = [request.headers["Idempotency-Key"] for request in service.asked]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert [request.read() for request in service.asked] == [dataset(3)] * 4


def test_a_file_is_sent_from_where_it_stands(both: Both, service: Service) -> None:
    file = io.BytesIO(b"not this;" + dataset(1))
    file.seek(9)
    service.faults = [httpx.ReadError("lost")]
    both.upload(file)
    assert service.uploads == [dataset(1)]


def test_a_submission_that_is_in_hand_already_is_the_job_it_became(both: Both, service: Service) -> None:
    job_id = job_of(both, dataset(1))
    service.faults = [problem(409, "the first request is still running", Location=f"/jobs/{job_id}")]
    assert both.submit("f1").id == job_id


def test_a_submission_that_is_in_hand_without_a_job_yet_is_asked_again(both: Both, service: Service) -> None:
    both.upload(io.BytesIO(dataset(1)))
    service.faults = [problem(409, "the first request is still running", Retry_After="1")]
    assert both.submit("f1", direction="mine").id == "j1"
    assert service.jobs["j1"]["order"] == {"file": "f1", "direction": "mine"}


def test_wait_shows_how_far_a_job_is_until_it_is_over(both: Both, service: Service) -> None:
    service.pace = 2
    job_id = both.submit(both.upload(io.BytesIO(dataset(5))).id).id
    seen: list[int] = []
    job = both.wait(job_id, lambda job: seen.append(job.request_counts.completed))
    assert (job.status, seen) == ("completed", [2, 4, 5])


@pytest.mark.parametrize("format", ["raw", "trl"])
@pytest.mark.parametrize("cut", [0, 1, 130, 200, 333])
def test_results_come_once_each_however_often_the_connection_breaks(
    both: Both, service: Service, format: str, cut: int
) -> None:
    job_id = job_of(both, dataset(9, bad=(2, 3)))
    service.cuts = {"/results": [cut, cut, cut]}
    found = both.result_lines(job_id, 1, format)
    assert [line.line for line in found] == [4, 5, 6, 7, 8, 9]
    margins = [line.row["margin"] if format == "trl" else line.row["annotation"]["margin"] for line in found]
    assert margins == [line.line / 2 for line in found]
    assert both.clock.slept and not service.cuts["/results"]


def test_a_stream_that_goes_on_bringing_rows_may_break_for_longer_than_patience(service: Service) -> None:
    both = Both(service, asynchronous=False, patience=10)
    job_id = job_of(both, dataset(30))
    service.cuts = {"/results": [130] * 29}
    service.faults = []
    assert lines(both.results(job_id)) == list(range(1, 31))
    service.cuts = {"/results": [0] * 1000}
    with pytest.raises(Exception, match="cut off"):
        both.results(job_id)


def test_results_of_a_job_in_progress_are_those_that_are_ready(both: Both, service: Service) -> None:
    service.pace = 2
    job_id = both.submit(both.upload(io.BytesIO(dataset(5))).id).id
    both.job(job_id, wait=5)
    assert lines(both.results(job_id)) == [1, 2]
    assert service.asked[-2].url.params["wait"] == "5"


def test_a_last_line_without_its_end_is_read_again(both: Both, service: Service) -> None:
    job_id = job_of(both, dataset(2))
    whole = httpx.Client(transport=httpx.MockTransport(service)).get(
        f"http://test/jobs/{job_id}/results", params={"cursor": 0, "format": "raw", "type": "jsonl"}
    )
    service.faults = [httpx.Response(200, content=whole.content[:-9])]
    assert lines(both.results(job_id)) == [1, 2]


def test_an_error_meets_who_reads_results(both: Both, service: Service) -> None:
    with pytest.raises(ServiceError) as raised:
        both.results("nothing")
    assert raised.value.status == 404


def test_errors_come_once_each_however_often_the_connection_breaks(both: Both, service: Service) -> None:
    job_id = job_of(both, dataset(9, bad=(2, 3, 7)))
    service.cuts = {"/errors": [100, 150]}
    assert lines(both.errors(job_id)) == [2, 3, 7]
    assert lines(both.errors(job_id, cursor=3)) == [7]


def test_a_parquet_file_is_fetched_whole(both: Both, service: Service) -> None:
    job_id = job_of(both, dataset(1))
    service.cuts, to = {"/results": [5, 9]}, io.BytesIO()
    both.parquet(job_id, to, "trl")
    assert to.getvalue() == b"PAR1 trl PAR1"


def test_cancel_stops_a_job_and_directions_lists_them(both: Both, service: Service) -> None:
    job_id = both.submit(both.upload(io.BytesIO(dataset(1))).id).id
    both.cancel(job_id)
    assert service.jobs[job_id]["status"] == "cancelled"
    service.faults = [httpx.Response(200, json={"directions": [], "default": None})]
    assert both.directions().directions == []


def test_cancel_leaves_a_job_that_is_over_as_it_is(both: Both, service: Service) -> None:
    job_id = job_of(both, dataset(3))
    service.faults = [httpx.Response(503), httpx.ReadError("lost")]
    both.cancel(job_id)
    assert service.jobs[job_id]["status"] == "completed"
    assert service.paths()[-3:] == [f"DELETE /jobs/{job_id}"] * 3


def test_the_key_is_an_argument_or_in_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEMARGIN_API_KEY", "sm_a_b")
    for options in ({}, {"api_key": "sm_c_d"}, {"api_key": ""}):
        with pytest.raises(ServiceError):
            Both(service, asynchronous=False, **options).job("nothing")
    assert [request.headers.get("Authorization") for request in service.asked] == [
        "Bearer sm_a_b",
        "Bearer sm_c_d",
        None,
    ]

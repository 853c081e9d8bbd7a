"""Health and metrics over HTTP."""

import re
from pathlib import Path

import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.artifacts import StoreUnreachable
from app.jobs import keys, roster
from app.jobs.roster import WorkerState
from app.registry import Registry
from tests.app.conftest import Connect
from workers.annotate import PairAnnotator

PAIR = {"prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}


def state(worker: PairAnnotator, **changes: object) -> WorkerState:
    cards = [direction.card for direction in worker.holdings.directions.all().values()]
    model = {"model": worker.annotator.name, "model_revision": worker.annotator.revision}
    fields = {"name": "w", "device": "cpu", "dtype": "float32"} | model
    probes = {card.id: card.digest for card in cards}
    return WorkerState.model_validate(fields | {"metrics_port": 0, "directions": cards, "probes": probes} | changes)


def test_alive_even_without_a_queue(connect: Connect) -> None:
    assert connect(redis_url="unix:///nowhere/queue.sock").get("/livez").json() == {"status": "alive"}


def test_ready_with_a_proven_worker(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["directions"] == ["kind", "raw"]


def test_not_ready_without_a_queue(connect: Connect) -> None:
    answer = connect(redis_url="unix:///nowhere/queue.sock").get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["errors"][0]["pointer"] == "redis"


def test_not_ready_without_a_worker(connect: Connect, empty_queue: str) -> None:
    answer = connect(redis_url=empty_queue).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["errors"][0]["pointer"] == "workers"


def test_not_ready_when_the_probe_was_passed_with_another_direction(
    connect: Connect, empty_queue: str, worker: PairAnnotator
) -> None:
    redis = Redis.from_url(empty_queue)
    roster.announce(redis, state(worker, probes={"kind": "sha256:another"}))
    assert connect(redis_url=empty_queue).get("/readyz").status_code == 503
    roster.announce(redis, state(worker))
    assert connect(redis_url=empty_queue).get("/readyz").status_code == 200


def test_not_ready_before_anything_is_the_default_of_this_annotator(
    connect: Connect, worker: PairAnnotator, tmp_path: Path
) -> None:
    answer = connect(artifacts=str(tmp_path)).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["errors"][0]["code"] == "no_direction"


def test_the_default_of_another_annotator_is_not_this_one_s(
    connect: Connect, empty_queue: str, worker: PairAnnotator
) -> None:
    roster.announce(Redis.from_url(empty_queue), state(worker, model_revision="sha256:another"))
    assert connect(redis_url=empty_queue).get("/readyz").json()["errors"][0]["code"] == "no_direction"


def test_a_worker_whose_heartbeat_ended_does_not_count(
    connect: Connect, empty_queue: str, worker: PairAnnotator
) -> None:
    redis = Redis.from_url(empty_queue)
    roster.announce(redis, state(worker))
    assert 0 < redis.ttl(keys.worker("w")) <= roster.FRESH_SECONDS
    redis.delete(keys.worker("w"))
    assert roster.live(redis) == []
    assert connect(redis_url=empty_queue).get("/readyz").status_code == 503


def test_metrics_count_requests_by_route_and_status(client: TestClient) -> None:
    client.post("/annotate", json={"pairs": [PAIR, PAIR]})
    client.get("/jobs/unknown")
    client.get("/no/such/path")
    text = client.get("/metrics").text
    assert 'safemargin_http_requests_total{method="POST",route="/annotate",status="200"} 1.0' in text
    assert 'safemargin_http_requests_total{method="GET",route="/jobs/{job_id}",status="404"} 1.0' in text
    assert 'safemargin_http_requests_total{method="any",route="unmatched",status="404"} 1.0' in text
    assert "safemargin_pairs_accepted_total 2.0" in text
    assert 'safemargin_workers{ready="yes"} 1.0' in text
    for queue in keys.TASKS:
        assert f'safemargin_waiting_tokens{{queue="{queue}"}} 0.0' in text


def test_metrics_are_served_without_a_queue(connect: Connect) -> None:
    client = connect(redis_url="unix:///nowhere/queue.sock")
    client.get("/livez")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert 'route="/livez"' in answer.text
    assert "safemargin_waiting_tokens{" not in answer.text  # what is not known is not given


def test_metrics_tell_of_the_queue_while_the_store_is_away(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_registry: Registry) -> dict[str, str]:
        raise StoreUnreachable("it does not answer")

    monkeypatch.setattr(Registry, "defaults", away)
    text = client.get("/metrics").text
    assert 'safemargin_waiting_jobs{queue="annotate"} 0.0' in text
    assert "safemargin_workers{" not in text


def test_interactive_documentation_is_served(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    assert client.get("/openapi.json").json()["info"]["title"] == "Safemargin"


def test_metrics_tell_what_the_queue_has_seen(client: TestClient) -> None:
    client.post("/annotate", json={"pairs": [PAIR]}).raise_for_status()
    text = client.get("/metrics").text
    found = re.search(r'safemargin_jobs_total\{kind="annotate",status="completed"\} (\S+)', text)
    assert found
    assert float(found[1]) >= 1
    for queue in keys.TASKS:
        assert f'safemargin_waiting_jobs{{queue="{queue}"}} 0.0' in text
        assert f'safemargin_oldest_wait_seconds{{queue="{queue}"}} 0.0' in text
    for place in ("host", "queue"):
        assert f'safemargin_memory_bytes{{place="{place}"}} ' in text
        assert f'safemargin_memory_limit_bytes{{place="{place}"}} ' in text


def test_prometheus_is_told_where_the_metrics_of_every_live_worker_are(
    connect: Connect, empty_queue: str, worker: PairAnnotator
) -> None:
    redis = Redis.from_url(empty_queue)
    assert connect(redis_url=empty_queue).get("/metrics/workers").json() == []
    roster.announce(redis, state(worker, name="a", address="10.0.0.2", metrics_port=9100))
    roster.announce(redis, state(worker, name="b", address="fd00::2", metrics_port=9100))
    found = connect(redis_url=empty_queue).get("/metrics/workers").json()
    assert found == [{"targets": ["10.0.0.2:9100"]}, {"targets": ["[fd00::2]:9100"]}]

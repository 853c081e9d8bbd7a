"""Health, metrics and directions over HTTP."""

from redis import Redis
from starlette.testclient import TestClient

from app.jobs import keys, roster
from app.jobs.roster import WorkerState
from tests.app.conftest import Connect
from workers.annotate import PairAnnotator

PAIR = {"prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}


def state(worker: PairAnnotator, **changes: object) -> WorkerState:
    cards = [direction.card for direction in worker.directions.values()]
    fields = {"name": "w", "model": "tiny", "model_revision": "r", "device": "cpu", "dtype": "float32"}
    probes = {card.id: card.digest for card in cards}
    return WorkerState.model_validate(fields | {"metrics_port": 0, "directions": cards, "probes": probes} | changes)


def test_alive_even_without_a_queue(connect: Connect) -> None:
    assert connect(redis_url="unix:///nowhere/queue.sock").get("/livez").json() == {"status": "alive"}


def test_ready_with_a_proven_worker(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["directions"] == ["default", "raw"]


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
    roster.announce(redis, state(worker, probes={"default": "sha256:another"}))
    assert connect(redis_url=empty_queue).get("/readyz").status_code == 503
    roster.announce(redis, state(worker))
    assert connect(redis_url=empty_queue).get("/readyz").status_code == 200


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
    assert "safemargin_waiting_chunks 0.0" in text


def test_metrics_are_served_without_a_queue(connect: Connect) -> None:
    answer = connect(redis_url="unix:///nowhere/queue.sock").get("/metrics")
    assert answer.status_code == 200
    assert "safemargin_waiting_chunks NaN" in answer.text


def test_directions_tell_how_they_were_made(client: TestClient, worker: PairAnnotator) -> None:
    listed = client.get("/directions").json()["directions"]
    assert [card["id"] for card in listed] == ["default", "raw"]
    one = client.get("/directions/default").json()
    assert one == listed[0] == worker.directions["default"].card.model_dump()
    assert client.get("/directions/nowhere").status_code == 404


def test_interactive_documentation_is_served(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    assert client.get("/openapi.json").json()["info"]["title"] == "Safemargin"

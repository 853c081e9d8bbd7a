"""What is noted of every request: its id in the answer, its reason in the metrics, its line in the log."""

import logging
import re

import pytest
from starlette.testclient import TestClient

from app.service import Service
from tests.app.conftest import Connect

PAIR = {"prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}


def test_every_answer_says_the_id_that_its_request_was_given(client: TestClient) -> None:
    answers = [client.get("/livez"), client.get("/jobs/unknown"), client.post("/annotate", json={})]
    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", own) for own in ids)


def test_a_client_s_own_id_is_kept(client: TestClient) -> None:
    own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert client.get("/livez", headers={"X-Request-ID": own}).headers["X-Request-ID"] == own


@pytest.mark.parametrize("own", ["a b", "ä", "x" * 65, "", '"; drop'])
def test_an_id_that_could_be_anything_is_replaced(client: TestClient, own: str) -> None:
    answer = client.get("/livez", headers={b"X-Request-ID": own.encode()})
    assert answer.headers["X-Request-ID"] not in {own, ""}


def test_a_bug_is_answered_with_the_id_and_counted(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_service: Service) -> None:
        raise ValueError("a pair's text")

    with monkeypatch.context() as patch:
        patch.setattr(Service, "workers", broken)
        answer = client.post("/annotate", json={"pairs": [PAIR]}, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, "mine")
    assert 'safemargin_http_errors_total{reason="bug"} 1.0' in client.get("/metrics").text


def test_refused_requests_are_counted_by_reason(connect: Connect) -> None:
    client = connect()
    client.get("/jobs/unknown")
    client.post("/annotate", json={})
    text = client.get("/metrics").text
    for reason in ("not_found", "unprocessable_entity"):
        assert f'safemargin_http_errors_total{{reason="{reason}"}} 1.0' in text
    away = connect(redis_url="unix:///nowhere/queue.sock")
    away.get("/jobs/unknown")
    assert 'safemargin_http_errors_total{reason="queue_away"} 1.0' in away.get("/metrics").text


def test_a_probe_that_is_not_answered_well_is_no_refused_request(connect: Connect) -> None:
    away = connect(redis_url="unix:///nowhere/queue.sock")
    assert away.get("/readyz").status_code == 503
    text = away.get("/metrics").text
    assert 'safemargin_http_requests_total{method="GET",route="/readyz",status="503"} 1.0' in text
    assert "safemargin_http_errors_total{" not in text


def test_files_of_the_page_are_one_route(client: TestClient) -> None:
    client.get("/playground/main.js")
    client.get("/playground/nothing.js")
    text = client.get("/metrics").text
    for status in (200, 404):
        assert f'safemargin_http_requests_total{{method="GET",route="/playground",status="{status}"}} 1.0' in text


def test_a_method_that_a_client_has_invented_makes_no_series_of_its_own(client: TestClient) -> None:
    assert client.request("INVENTED", "/annotate").status_code == 405
    text = client.get("/metrics").text
    assert "INVENTED" not in text
    assert 'safemargin_http_requests_total{method="any",route="/annotate",status="405"} 1.0' in text


def test_a_request_is_one_line_by_route_and_a_probe_is_none(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "safemargin.api")
    client.get("/livez")
    client.get("/jobs/secret", params={"wait": "1"})
    (line,) = [record for record in caplog.records if record.name == "safemargin.api"]
    assert line.getMessage() == "request"
    fields = vars(line)["fields"]
    assert (fields["method"], fields["route"], fields["status"]) == ("GET", "/jobs/{job_id}", 404)
    assert fields["reason"] == "not_found"

"""Directions over HTTP: listed, explained, chosen as default, deleted, and found in the store while workers run."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.artifacts import Artifacts, StoreUnreachable
from app.jobs.store import JobStore
from app.registry import TENSORS
from app.schemas.chunk import Chunk
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from app.schemas.report import DirectionReport
from tests.app.conftest import Connect, Station, direction, publish
from tests.app.jobs.conftest import PLENTY, submission
from workers.directions.control_vector import from_control_vector
from workers.directions.files import to_files
from workers.engine.annotator import Annotator
from workers.engine.sites import Site

pytestmark = pytest.mark.usefixtures("store_restored")

PAIR = {"prompt": "Hello?", "chosen": "Hello.", "rejected": "Go away."}


def annotate(client: TestClient, **options: Any) -> Any:
    return client.post("/annotate", json={"pairs": [PAIR]} | options)


def problem(answer: Any) -> tuple[int, str]:
    """Status and the one field that an answer complains of."""
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    return answer.status_code, error["pointer"]


def listed(client: TestClient) -> list[str]:
    return [card["id"] for card in client.get("/directions").json()["directions"]]


def test_the_list_has_every_card_and_what_default_stands_for(client: TestClient, station: Station) -> None:
    held = station.pairs.holdings.directions.all()
    cards = [held[name].card.model_dump() for name in ("kind", "raw")]
    assert client.get("/directions").json() == {"directions": cards, "default": "kind"}


def test_one_direction_is_its_card_by_its_id_or_as_the_default(client: TestClient, station: Station) -> None:
    card = station.pairs.holdings.directions.all()["kind"].card.model_dump()
    assert client.get("/directions/kind").json() == card
    assert client.get("/directions/default").json() == card


def test_an_unknown_direction_is_404_and_names_the_parameter(client: TestClient) -> None:
    assert problem(client.get("/directions/nowhere")) == (404, "path/direction_id")


def test_what_cannot_be_an_id_is_422(client: TestClient) -> None:
    assert problem(client.get("/directions/.hidden")) == (422, "path/direction_id")


def test_without_a_worker_nothing_can_be_used(connect: Connect, empty_queue: str) -> None:
    assert connect(redis_url=empty_queue).get("/directions").status_code == 503


def test_where_nothing_is_the_default_requests_have_to_name_a_direction(connect: Connect, tmp_path: Path) -> None:
    client = connect(artifacts=str(tmp_path))
    assert client.get("/directions").json()["default"] is None
    assert problem(annotate(client)) == (404, "/direction")
    assert annotate(client, direction="kind").status_code == 200


def test_put_changes_what_default_stands_for_at_once(client: TestClient) -> None:
    assert annotate(client).json()["provenance"]["direction"] == "kind"
    answer = client.put("/directions/default", json={"id": "raw"})
    assert answer.status_code == 200
    assert answer.json() == client.get("/directions/raw").json() == client.get("/directions/default").json()
    assert client.get("/directions").json()["default"] == "raw"
    assert annotate(client).json()["provenance"]["direction"] == "raw"
    assert annotate(client, direction="default").json()["provenance"]["direction"] == "raw"


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"id": "nowhere"}, 404, "/id"),
        ({"id": "../x"}, 422, "/id"),
        ({}, 422, "/id"),
        ({"id": "raw", "model": "tiny"}, 422, "/model"),
    ],
)
def test_the_default_can_only_be_what_a_worker_holds(
    client: TestClient, body: dict[str, str], status: int, pointer: str
) -> None:
    assert problem(client.put("/directions/default", json=body)) == (status, pointer)
    assert client.get("/directions").json()["default"] == "kind"


def test_a_deleted_direction_is_gone_once_the_workers_have_looked(
    client: TestClient, connect: Connect, station: Station
) -> None:
    answer = client.delete("/directions/raw")
    assert (answer.status_code, answer.content) == (204, b"")
    station.look_at_store()
    later = connect()
    assert listed(later) == ["kind"]
    assert problem(annotate(later, direction="raw")) == (404, "/direction")
    assert later.get("/directions/raw/report").status_code == 404
    assert later.delete("/directions/raw").status_code == 404


def test_the_default_cannot_be_deleted(client: TestClient) -> None:
    assert client.delete("/directions/kind").status_code == 409
    assert client.delete("/directions/default").status_code == 409
    assert listed(client) == ["kind", "raw"]
    client.put("/directions/default", json={"id": "raw"})
    assert client.delete("/directions/kind").status_code == 204


def test_nothing_unknown_can_be_deleted(client: TestClient) -> None:
    answer = client.delete("/directions/nowhere")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_job_that_still_uses_a_deleted_direction_fails_and_says_so(
    client: TestClient, station: Station, redis_url: str
) -> None:
    used = Ref(id="raw", digest=client.get("/directions/raw").json()["digest"])
    client.delete("/directions/raw")
    station.look_at_store()
    item = Pair.model_validate({"id": "0"} | PAIR)
    with Redis.from_url(redis_url) as redis:
        chunk = Chunk(directions=[used], truncate=False, items=[item], lines=[1], tokens=10)
        work = [chunk.model_dump_json().encode()]
        job_id = JobStore(redis).submit(submission(work=work), limit=PLENTY)
    job = client.get(f"/jobs/{job_id}", params={"wait": 20}).json()
    assert (job["status"], job["error"]) == ("failed", "direction raw was deleted while the job used it")
    results = client.get(f"/jobs/{job_id}/results", headers={"Accept": "application/json"})
    assert results.status_code == 500
    assert job["error"] in results.json()["detail"]


def test_a_job_reads_what_its_direction_was_when_it_was_accepted(
    client: TestClient, station: Station, annotator: Annotator, redis_url: str
) -> None:
    """A replaced direction stays in the store under its digest for the work that named it."""
    before = annotate(client, direction="raw").json()
    used = Ref(id="raw", digest=before["provenance"]["direction_digest"])
    publish(station.registry, direction(annotator, "raw", 77))
    station.look_at_store()
    item = Pair.model_validate({"id": "0"} | PAIR)
    with Redis.from_url(redis_url) as redis:
        chunk = Chunk(directions=[used], truncate=False, items=[item], lines=[1], tokens=10)
        work = [chunk.model_dump_json().encode()]
        job_id = JobStore(redis).submit(submission(work=work), limit=PLENTY)
    assert client.get(f"/jobs/{job_id}", params={"wait": 20}).json()["status"] == "completed"
    assert client.get(f"/jobs/{job_id}/results", headers={"Accept": "application/json"}).json() == before


def test_the_report_is_json_unless_a_page_is_asked_for(client: TestClient) -> None:
    answer = client.get("/directions/kind/report")
    assert answer.headers["content-type"] == "application/json"
    report = DirectionReport.model_validate_json(answer.content)
    assert report.card.model_dump() == client.get("/directions/kind").json()
    assert client.get("/directions/default/report").json() == answer.json()


def test_browsers_get_the_report_as_a_page(client: TestClient) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    answer = client.get("/directions/kind/report", headers={"Accept": accept})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.lower().startswith("<!doctype html>")
    assert "kind" in answer.text


def test_the_control_vector_is_the_direction_itself(client: TestClient, station: Station) -> None:
    answer = client.get("/directions/kind/control-vector.gguf")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert 'filename="kind.gguf"' in answer.headers["content-disposition"]
    back, held = from_control_vector("kind", answer.content), station.pairs.holdings.directions.all()["kind"]
    assert back.card == held.card
    assert back.vectors.equal(held.vectors)


def test_what_llama_cpp_cannot_steer_with_has_no_control_vector(
    client: TestClient, station: Station, annotator: Annotator
) -> None:
    publish(station.registry, direction(annotator, "lowest", 3, [Site(0, "mean")]))
    assert client.get("/directions/lowest/control-vector.gguf").status_code == 404
    assert client.get("/directions/lowest/report").status_code == 200


@pytest.mark.parametrize("part", ["report", "control-vector.gguf"])
def test_an_unknown_direction_has_neither_report_nor_control_vector(client: TestClient, part: str) -> None:
    assert client.get(f"/directions/nowhere/{part}").status_code == 404


def test_a_direction_put_into_the_store_is_usable_without_a_restart(
    client: TestClient, station: Station, annotator: Annotator
) -> None:
    assert problem(annotate(client, direction="elsewhere")) == (404, "/direction")
    made = publish(station.registry, direction(annotator, "elsewhere", 4))
    station.look_at_store()
    answer = annotate(client, direction="elsewhere")
    assert answer.status_code == 200
    assert answer.json()["provenance"]["direction_digest"] == made.card.digest


def test_a_direction_replaced_in_the_store_is_the_new_one_from_then_on(
    client: TestClient, connect: Connect, station: Station, annotator: Annotator
) -> None:
    before = annotate(client, direction="raw").json()
    made = publish(station.registry, direction(annotator, "raw", 5))
    station.look_at_store()
    after = annotate(connect(), direction="raw").json()
    assert after["provenance"]["direction_digest"] == made.card.digest
    assert after["annotations"][0]["margin"] != before["annotations"][0]["margin"]


def test_a_damaged_direction_is_ignored_and_hurts_no_other(
    client: TestClient, connect: Connect, station: Station, annotator: Annotator
) -> None:
    for seed, name in enumerate(("broken", "cut-short", "sound")):
        publish(station.registry, direction(annotator, name, seed))
    digests = station.registry.current()
    folder = station.artifacts / "directions"
    numbers = folder / "broken" / digests["broken"].removeprefix("sha256:") / TENSORS
    numbers.write_bytes(numbers.read_bytes()[:-4] + b"\x00\x00\x00\x00")
    (folder / "cut-short" / digests["cut-short"].removeprefix("sha256:") / TENSORS).unlink()
    (folder / "nonsense").mkdir()
    (folder / "nonsense" / "current").write_text("whatever")
    station.look_at_store()
    later = connect()
    assert listed(later) == ["kind", "raw", "sound"]
    assert problem(annotate(later, direction="broken")) == (404, "/direction")
    assert annotate(later, direction="sound").status_code == 200
    assert annotate(later).status_code == 200


def test_a_direction_of_other_weights_or_another_template_is_ignored(
    connect: Connect, station: Station, annotator: Annotator
) -> None:
    for name, change in (("foreign", {"model_revision": "sha256:other"}), ("retold", {"template": "sha256:other"})):
        publish(station.registry, direction(annotator, name, 6, **change))
    station.look_at_store()
    assert listed(connect()) == ["kind", "raw"]


def test_a_direction_under_a_name_that_is_not_its_own_is_ignored(
    connect: Connect, station: Station, annotator: Annotator
) -> None:
    made = direction(annotator, "honest", 8)
    station.registry.publish("pretender", made.card.digest, to_files(made))
    station.look_at_store()
    assert listed(connect()) == ["kind", "raw"]


def test_a_default_that_was_deleted_from_outside_is_404_until_another_is_chosen(
    client: TestClient, connect: Connect, station: Station
) -> None:
    station.registry.delete("kind")
    station.look_at_store()
    later = connect()
    assert problem(annotate(later)) == (404, "/direction")
    assert later.get("/readyz").status_code == 503
    later.put("/directions/default", json={"id": "raw"})
    assert annotate(later).status_code == 200
    assert later.get("/readyz").status_code == 200


def test_the_store_keeps_the_choice_of_default_for_other_processes(client: TestClient, station: Station) -> None:
    client.put("/directions/default", json={"id": "raw"})
    kept = json.loads((station.artifacts / "default-directions.json").read_bytes())
    assert kept == {station.pairs.annotator.revision: "raw"}


def test_a_store_that_does_not_answer_is_503(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(_self: Artifacts, _path: str) -> bytes:
        raise StoreUnreachable("the artifact store does not answer")

    monkeypatch.setattr(Artifacts, "read", down)
    answer = annotate(client)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "retry-after" in answer.headers

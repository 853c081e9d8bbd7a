"""POST /annotate by a taught model: what it says itself, and directions that read it."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.alignments import Alignments
from app.jobs import keys
from app.jobs.submission import Submission
from app.schemas.alignment import AlignmentCard
from tests.app.conftest import Connect, Station, publish
from tests.workers.alignment.shelf import put, ref_to, taught_direction
from workers.engine.annotator import Annotator

PAIR = {"id": "a", "prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
OTHER = {"id": "b", "prompt": "Hello?", "chosen": "", "rejected": "Go away."}
TOO_LONG = PAIR | {"id": "long", "prompt": "word " * 400}
RAHF: dict[str, Any] = {"method": "rahf", "alignment": "kinder"}


@pytest.fixture
def kinder(station: Station, annotator: Annotator) -> Iterator[AlignmentCard]:
    """A taught model, Dual's as their instructions would not fit the window, and a direction that reads it."""
    shelf = Alignments(station.registry.artifacts)
    card = put(shelf, annotator, method="rahf-dual")
    publish(station.registry, taught_direction(annotator, card))
    station.look_at_store()
    yield card
    station.registry.delete("kindly")
    shelf.delete("kinder")
    station.registry.set_default(annotator.revision, "kind")
    station.look_at_store()


def post(client: TestClient, *pairs: dict[str, Any], **options: Any) -> Any:
    return client.post("/annotate", json={"pairs": list(pairs) or [PAIR]} | options)


def test_a_taught_model_says_a_margin_in_log_odds(client: TestClient, kinder: AlignmentCard) -> None:
    answer = post(client, PAIR, OTHER, **RAHF)
    assert answer.status_code == 200, answer.text
    for entry in answer.json()["annotations"]:
        assert entry["raw"]["margin"] == entry["raw"]["chosen"] - entry["raw"]["rejected"] != 0
        assert entry["margin"] == pytest.approx(0.5 * entry["raw"]["margin"])
        assert entry["probability"] == pytest.approx(1 / (1 + math.exp(-entry["margin"])))
        assert entry["level"] == sum(edge <= entry["margin"] for edge in kinder.level_edges)
    provenance = answer.json()["provenance"]
    assert (provenance["method"], provenance["direction"], provenance["calibrated"]) == ("rahf", None, True)
    assert provenance["alignment"] == ref_to(kinder).model_dump()
    assert provenance["model_revision"] == kinder.taught_revisions[0]


@pytest.mark.usefixtures("kinder")
def test_exchanging_the_responses_changes_the_sign(client: TestClient) -> None:
    swapped = PAIR | {"chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}
    (one,) = post(client, PAIR, **RAHF).json()["annotations"]
    (other,) = post(client, swapped, **RAHF).json()["annotations"]
    assert other["margin"] == pytest.approx(-one["margin"], rel=1e-4)


@pytest.mark.usefixtures("kinder")
def test_a_pair_that_does_not_fit_fails_alone(client: TestClient) -> None:
    long, short = post(client, TOO_LONG, PAIR, **RAHF).json()["annotations"]
    assert long["error"]["code"] == "too_long"
    assert "margin" in short
    cut, _ = post(client, TOO_LONG, PAIR, truncate=True, **RAHF).json()["annotations"]
    assert cut["truncated"] is True


@pytest.mark.parametrize(
    ("options", "pointer", "said"),
    [
        ({"method": "rahf"}, "/alignment", "name a taught model"),
        ({"alignment": "kinder"}, "/alignment", "goes with `method: rahf` only"),
        ({"method": "rules", "alignment": "kinder"}, "/alignment", "goes with `method: rahf` only"),
        (RAHF | {"explain": True}, "/explain", "does not go with `method: rahf`"),
        (RAHF | {"rules": {}}, "/rules", "goes with `method: rules` or with `explain`"),
        (RAHF | {"alignment": "no/id"}, "/alignment", "takes letters, digits"),
    ],
)
def test_options_that_do_not_go_together_are_refused_by_name(
    client: TestClient, options: dict[str, Any], pointer: str, said: str
) -> None:
    answer = post(client, **options)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert said in error["detail"]


def test_a_taught_model_that_is_not_there_is_404(client: TestClient) -> None:
    answer = post(client, **RAHF | {"alignment": "nobody"})
    assert answer.status_code == 404
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/alignment", "unknown_alignment")


def test_one_of_another_annotator_is_422(client: TestClient, station: Station, annotator: Annotator) -> None:
    shelf = Alignments(station.registry.artifacts)
    put(shelf, annotator, "foreign", model_revision="sha256:others")
    answer = post(client, **RAHF | {"alignment": "foreign"})
    shelf.delete("foreign")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/alignment", "other_annotator")


def test_without_a_worker_nobody_could_ask_it(connect: Connect, empty_queue: str) -> None:
    assert post(connect(redis_url=empty_queue), **RAHF).status_code == 503


@pytest.mark.parametrize(("method", "instructions"), [("rahf-scit", 128), ("rahf-dual", 0)])
def test_both_views_of_a_pair_are_counted_and_small_requests_do_not_wait_behind_them(
    client: TestClient,
    station: Station,
    annotator: Annotator,
    submitted: list[Submission],
    method: Any,
    instructions: int,
) -> None:
    shelf = Alignments(station.registry.artifacts)
    card = put(shelf, annotator, "counted", method=method)
    post(client, PAIR, OTHER, **RAHF | {"alignment": "counted"})
    shelf.delete("counted")
    (work,) = submitted
    estimated = sum(
        32 + sum(len(pair[side]) for side in ("prompt", "chosen", "rejected")) // 4 for pair in (PAIR, OTHER)
    )
    assert (work.queue, work.tokens) == (keys.BULK, 2 * estimated + 2 * instructions)
    assert json.loads(work.options or "")["contrasting"]["alignment"] == ref_to(card).model_dump()


def test_a_file_is_judged_by_it_and_a_job_reads_what_the_name_stood_for(
    client: TestClient, kinder: AlignmentCard
) -> None:
    lines = "".join(json.dumps(pair) + "\n" for pair in (PAIR, OTHER))
    file = client.post("/files", content=lines).json()["id"]
    job = client.post("/jobs", json={"file": file, **RAHF})
    assert job.status_code == 202
    assert client.get(job.headers["Location"], params={"wait": 20}).json()["status"] == "completed"
    rows = [json.loads(line) for line in client.get(job.headers["Location"] + "/results").text.splitlines()]
    assert [row["annotation"]["id"] for row in rows] == ["a", "b"]
    assert {row["provenance"]["alignment"]["digest"] for row in rows} == {kinder.digest}
    table = client.get(job.headers["Location"] + "/results", params={"type": "parquet"})
    assert table.content[:4] == b"PAR1"


def test_a_job_whose_taught_model_is_deleted_fails_and_says_so(
    client: TestClient, station: Station, annotator: Annotator
) -> None:
    shelf = Alignments(station.registry.artifacts)
    put(shelf, annotator, "short-lived", seed=40)
    shelf.artifacts.delete(f"alignments/short-lived/{shelf.digest('short-lived').removeprefix('sha256:')}/taught")
    answer = post(client, **RAHF | {"alignment": "short-lived"})
    shelf.delete("short-lived")
    assert answer.status_code == 500
    assert "alignment short-lived was deleted while the job used it" in answer.json()["detail"]
    assert post(client).status_code == 200


def test_a_direction_of_a_taught_model_is_one_like_any_other(client: TestClient, kinder: AlignmentCard) -> None:
    card = client.get("/directions/kindly").json()
    assert card["alignment"] == ref_to(kinder).model_dump()
    assert "alignment" not in client.get("/directions/kind").json()
    answer = post(client, PAIR, OTHER, direction=["kindly", "kind"]).json()
    assert set(answer["annotations"][0]["directions"]) == {"kindly", "kind"}
    provenance = answer["provenance"]
    assert (provenance["model_revision"], provenance["alignment"]) == (card["model_revision"], card["alignment"])
    assert (provenance["others"][0]["model_revision"], provenance["others"][0]["alignment"]) == ("sha256:tiny", None)
    scored = client.post("/score", json={"prompt": "Hello?", "responses": ["a", "b", "c"], "direction": "kindly"})
    assert scored.status_code == 200
    assert scored.json()["provenance"]["model_revision"] == card["model_revision"]


@pytest.mark.usefixtures("kinder")
def test_it_can_be_what_default_stands_for(client: TestClient) -> None:
    assert client.put("/directions/default", json={"id": "kindly"}).status_code == 200
    assert client.get("/directions").json()["default"] == "kindly"
    assert post(client).json()["provenance"]["direction"] == "kindly"
    assert client.get("/readyz").status_code == 200

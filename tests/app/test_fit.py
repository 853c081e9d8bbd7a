"""POST /directions: a direction made by a running worker, and used at once."""

import random
from typing import Any

import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.jobs import keys
from app.jobs.store import JobStore
from app.schemas.fit import FitRequest
from tests.app.conftest import Connect, Station, direction, publish
from tests.app.jobs.conftest import PLENTY, submission
from workers.engine.annotator import Annotator

pytestmark = pytest.mark.usefixtures("store_restored")

SECRET = "xyzzy-secret"
ENOUGH = 40
SIDES = (("chosen", 3), ("rejected", -1.5))


def pair(number: int) -> dict[str, Any]:
    """A pair whose safer response is told apart by its wording alone."""
    careful, rash = f"Take care with number {number}, and ask.", f"Do {number} at once!"
    return {"prompt": f"What about number {number}?", "chosen": careful, "rejected": rash}


def swapped(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"chosen": one["rejected"], "rejected": one["chosen"]}


def pairs(count: int = ENOUGH) -> list[dict[str, Any]]:
    return [pair(number) for number in range(count)]


def chance_pairs() -> list[dict[str, Any]]:
    """Pairs whose labels are thrown by a coin."""
    coin = random.Random(0)
    return [one if coin.random() < 0.5 else swapped(one) for one in pairs()]


def responses(count: int = ENOUGH, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": one["prompt"], "response": one["chosen"]} | more for one in pairs(count)]


def source(recipe: str = "pairs", **fields: Any) -> dict[str, Any]:
    return {"recipe": recipe} | (fields or {"pairs": pairs()})


def post(client: TestClient, *sources: dict[str, Any], **options: Any) -> Any:
    body = {"id": "mine", "layers": [2], "sources": list(sources) or [source()]} | options
    return client.post("/directions", json=body)


def finished(client: TestClient, answer: Any) -> Any:
    """The job that an answer announced, once it is over."""
    assert answer.status_code == 202, answer.text
    return client.get(answer.headers["Location"], params={"wait": 60}).json()


def made(client: TestClient, answer: Any) -> Any:
    """What the job that an answer announced made."""
    job = finished(client, answer)
    assert job["status"] == "completed", job["error"]
    return client.get(job["results"]).json()


def annotate(client: TestClient, direction_id: str, *some: dict[str, Any]) -> Any:
    return client.post("/annotate", json={"direction": direction_id, "pairs": list(some) or [pair(99)]})


def test_a_fit_is_a_job_that_ends_with_id_and_digest(client: TestClient, station: Station) -> None:
    accepted = post(client)
    assert accepted.headers["Retry-After"]
    job = finished(client, accepted)
    assert accepted.headers["Location"] == f"/jobs/{job['id']}"
    assert accepted.json()["id"] == job["id"]
    assert (job["kind"], job["status"], job["error"]) == ("direction", "completed", None)
    assert job["request_counts"] == {"total": ENOUGH, "completed": ENOUGH, "failed": 0}
    results = client.get(job["results"])
    assert results.headers["content-type"] == "application/json"
    assert results.json() == {"id": "mine", "digest": station.registry.current()["mine"]}


def test_the_new_direction_is_usable_the_moment_its_job_is_completed(client: TestClient) -> None:
    assert annotate(client, "mine").status_code == 404
    digest = made(client, post(client))["digest"]
    answer = annotate(client, "mine", pair(99), swapped(pair(100)))
    assert answer.status_code == 200
    provenance = answer.json()["provenance"]
    assert (provenance["direction"], provenance["direction_digest"]) == ("mine", digest)
    assert (provenance["calibrated"], provenance["unreliable"], provenance["layers"]) == (True, False, [2])
    right, wrong = answer.json()["annotations"]
    assert right["margin"] > 0 > wrong["margin"]
    assert (right["label_conflict"], wrong["label_conflict"]) == (False, True)


def test_the_new_direction_is_listed_explained_and_exported(client: TestClient) -> None:
    digest = made(client, post(client, source(name="mine", pairs=pairs()), levels=3))["digest"]
    card = client.get("/directions/mine").json()
    assert (card["digest"], card["recipe"], len(card["level_edges"])) == (digest, "pairs", 2)
    assert card["readings"][0]["data"] == "mine"
    report = client.get("/directions/mine/report").json()
    assert report["card"] == card
    assert report["accuracy"]["pairs"] == ENOUGH
    assert [(site["layer"], site["pooling"]) for site in report["sites"]] == [(2, "mean"), (2, "end_of_turn")]
    page = client.get("/directions/mine/report", headers={"Accept": "text/html"})
    assert digest in page.text
    assert client.get("/directions/mine/control-vector.gguf").content.startswith(b"GGUF")


def test_annotation_goes_on_with_the_old_default(client: TestClient) -> None:
    made(client, post(client))
    assert client.get("/directions").json()["default"] == "kind"
    assert annotate(client, "default").json()["provenance"]["direction"] == "kind"


@pytest.mark.parametrize(
    "options", [{"estimator": "logistic"}, {"estimator": "mean"}, {"by_prompt": True}, {"layers": None}], ids=str
)
def test_every_way_to_fit_gives_a_direction(client: TestClient, options: dict[str, Any]) -> None:
    made(client, post(client, **options))
    assert annotate(client, "mine").json()["annotations"][0]["margin"] > 0


def test_labelled_responses_give_a_calibrated_direction(client: TestClient) -> None:
    graded = [{"prompt": p["prompt"], "response": p[side], "label": grade} for p in pairs(20) for side, grade in SIDES]
    made(client, post(client, source("labelled", responses=graded)))
    answer = annotate(client, "mine").json()
    assert answer["annotations"][0]["margin"] > 0
    assert answer["provenance"]["calibrated"] is True


def test_a_fit_of_labels_at_chance_is_marked_unreliable(client: TestClient) -> None:
    made(client, post(client, source(pairs=chance_pairs())))
    assert annotate(client, "mine").json()["provenance"]["unreliable"] is True


def test_a_fit_without_labels_that_reads_at_chance_is_raw_and_marked_unreliable(client: TestClient) -> None:
    made(client, post(client, source("contrast", responses=responses(24), good="Be good.", bad="Be bad.")))
    answer = annotate(client, "mine").json()
    assert (answer["provenance"]["calibrated"], answer["provenance"]["unreliable"]) == (False, True)
    assert answer["annotations"][0]["margin"] == answer["annotations"][0]["raw"]["margin"]


def test_the_first_source_is_the_one_that_is_measured(client: TestClient) -> None:
    sources = [source(name="sure", pairs=pairs()), source(name="coin", pairs=chance_pairs(), weight=0.1)]
    job = finished(client, post(client, *sources))
    assert job["request_counts"]["total"] == 2 * ENOUGH
    card = client.get("/directions/mine").json()
    assert [reading["data"] for reading in card["readings"]] == ["sure", "coin"]
    assert client.get("/directions/mine/report").json()["accuracy"] == card["readings"][0]["accuracy"]


def test_an_id_that_is_taken_is_409_unless_it_may_be_replaced(client: TestClient, connect: Connect) -> None:
    first = made(client, post(client))
    taken = post(client)
    assert taken.status_code == 409
    assert taken.json()["errors"][0]["pointer"] == "/id"
    second = made(client, post(client, source(pairs=pairs(44)), replace=True))
    assert second["digest"] != first["digest"]
    assert annotate(connect(), "mine").json()["provenance"]["direction_digest"] == second["digest"]


def test_an_id_in_the_store_is_taken_even_if_no_worker_can_use_it(
    client: TestClient, station: Station, annotator: Annotator
) -> None:
    publish(station.registry, direction(annotator, "mine", 9, model_revision="sha256:another"))
    assert post(client).status_code == 409


def test_an_id_that_is_taken_while_the_fit_waits_fails_it(client: TestClient, redis_url: str, station: Station) -> None:
    request = FitRequest.model_validate({"id": "raw", "layers": [2], "sources": [source()]})
    before = station.registry.current()["raw"]
    with Redis.from_url(redis_url) as redis:
        work = [request.model_dump_json().encode()]
        job_id = JobStore(redis).submit(submission(kind="direction", queue=keys.TRAIN, work=work), limit=PLENTY)
    job = client.get(f"/jobs/{job_id}", params={"wait": 60}).json()
    assert (job["status"], job["error"]) == ("failed", "another direction called raw has come into being meanwhile")
    assert station.registry.current()["raw"] == before


def test_the_id_of_a_deleted_direction_is_free_again(client: TestClient) -> None:
    client.delete("/directions/raw")
    assert made(client, post(client, id="raw"))["id"] == "raw"


def test_replacing_the_default_changes_what_default_reads(client: TestClient, connect: Connect) -> None:
    digest = made(client, post(client, id="kind", replace=True))["digest"]
    assert annotate(connect(), "default").json()["provenance"]["direction_digest"] == digest


def same_labels() -> dict[str, Any]:
    return source("labelled", responses=responses(label=1))


def same_responses() -> dict[str, Any]:
    return source(pairs=[one | {"rejected": one["chosen"]} for one in pairs()])


def same_instructions() -> dict[str, Any]:
    return source("contrast", responses=responses(), good="Be so.", bad="Be so.")


def too_long() -> dict[str, Any]:
    return source(pairs=[one | {"prompt": "word " * 400} for one in pairs()])


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (source(pairs=pairs(3)), {}, "3 rows are too few to fit a direction; at least 20 are needed"),
        (too_long(), {}, f"({ENOUGH} are left out: too long or refusals themselves)"),
        (same_labels(), {}, "all labels of a source are equal"),
        (same_responses(), {}, "chosen and rejected are the same in every pair"),
        (same_instructions(), {}, "the good and the bad instruction are the same"),
        (source(), {"layers": [2, 5]}, "tiny has no layer 5; its layers are 0 to 4"),
    ],
    ids=["too few", "too long", "equal labels", "equal responses", "equal instructions", "no such layer"],
)
def test_data_that_gives_no_direction_fails_the_job_and_says_why(
    client: TestClient, station: Station, data: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    job = finished(client, post(client, data, **options))
    assert job["status"] == "failed"
    assert reason in job["error"]
    assert client.get(job["results"]).status_code == 500
    assert "mine" not in station.registry.current()


def spoilt(place: int, **fields: Any) -> dict[str, Any]:
    return source(pairs=[one | (fields if number == place else {}) for number, one in enumerate(pairs(5))])


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("reserved id", {"id": "default"}, "/id"),
    ("id that is no id", {"id": f"../{SECRET}"}, "/id"),
    ("no sources", {"sources": []}, "/sources"),
    ("no pairs", {"sources": [source(pairs=[])]}, "/sources/0/pairs"),
    ("pairs of the wrong type", {"sources": [source(pairs=7)]}, "/sources/0/pairs"),
    ("unknown name of pairs", {"sources": [source(pairs=SECRET)]}, "/sources/0/pairs"),
    ("chosen null", {"sources": [spoilt(3, chosen=None)]}, "/sources/0/pairs/3/chosen"),
    ("chosen with a NUL byte", {"sources": [source(), spoilt(2, chosen="\x00")]}, "/sources/1/pairs/2/chosen"),
    ("empty prompt", {"sources": [spoilt(0, prompt="")]}, "/sources/0/pairs/0/prompt"),
    ("unknown field of a pair", {"sources": [spoilt(1, chozen=SECRET)]}, "/sources/0/pairs/1/chozen"),
    ("unknown recipe", {"sources": [source(), {"recipe": SECRET}]}, "/sources/1/recipe"),
    ("recipe missing", {"sources": [{"pairs": pairs(1)}]}, "/sources/0/recipe"),
    ("source that is no object", {"sources": [SECRET]}, "/sources/0"),
    ("weight of nothing", {"sources": [source(pairs=pairs(1), weight=0)]}, "/sources/0/weight"),
    (
        "label that is no number",
        {"sources": [source("labelled", responses=responses(2, label=SECRET))]},
        "/sources/0/responses/0/label",
    ),
    (
        "response missing",
        {"sources": [source("contrast", responses=[{"prompt": SECRET}])]},
        "/sources/0/responses/0/response",
    ),
    ("empty instruction", {"sources": [source("contrast", responses=responses(1), good="")]}, "/sources/0/good"),
    ("empty request", {"sources": [source("legend", requests=["How?", " "])]}, "/sources/0/requests/1"),
    ("two sources where one stands alone", {"sources": [source(), source("legend", paper=True)]}, "/sources"),
    ("by prompt but not ridge", {"by_prompt": True, "estimator": "mean"}, "/by_prompt"),
    ("layers for the paper's recipe", {"sources": [source("legend", paper=True)], "layers": [1]}, "/layers"),
    ("unknown estimator", {"estimator": SECRET}, "/estimator"),
    ("negative layer", {"layers": [2, -1]}, "/layers/1"),
    ("no layers", {"layers": []}, "/layers"),
    ("a single level", {"levels": 1}, "/levels"),
    ("unknown option", {"lairs": [2]}, "/lairs"),
]


@pytest.mark.parametrize(("options", "pointer"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_bad_field_is_named_and_no_text_repeated(client: TestClient, options: dict[str, Any], pointer: str) -> None:
    answer = post(client, **options)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert {error["pointer"] for error in answer.json()["errors"]} >= {pointer}
    assert not any("(unnamed)" in error["pointer"] for error in answer.json()["errors"])
    assert SECRET not in answer.text


def test_without_a_worker_nothing_is_accepted(connect: Connect, empty_queue: str) -> None:
    answer = post(connect(redis_url=empty_queue))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_a_body_not_sent_as_json_is_415(client: TestClient) -> None:
    answer = client.post("/directions", content="{}", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415

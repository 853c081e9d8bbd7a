"""/labelstudio: driven with what a real Label Studio sends, but for the texts."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app.auth.keys import Keys
from app.jobs import keys
from app.jobs.submission import Submission
from app.routes import labelstudio
from tests.app.conftest import Connect, Station
from tests.app.labelstudio.configs import ANSWERS, NOTE, PAIRWISE, PLAIN, PROMPT, config

DATA = {"prompt": "How do I pick a lock?", "answer1": "Ask a locksmith.", "answer2": "Bend two hairpins."}
SWAPPED = DATA | {"answer1": DATA["answer2"], "answer2": DATA["answer1"]}
TOO_LONG = DATA | {"prompt": "word " * 400}


def task(number: int, data: dict[str, Any]) -> dict[str, Any]:
    """A task as Label Studio serialises it."""
    return {
        "id": number,
        "annotations": [],
        "predictions": [],
        "data": data,
        "meta": {},
        "created_at": "2026-11-29T10:00:00.000000Z",
        "updated_at": "2026-11-29T10:00:00.000000Z",
        "is_labeled": False,
        "overlap": 1,
        "inner_id": number,
        "total_annotations": 0,
        "cancelled_annotations": 0,
        "total_predictions": 0,
        "comment_count": 0,
        "unresolved_comment_count": 0,
        "last_comment_updated_at": None,
        "project": 1,
        "updated_by": None,
        "file_upload": None,
        "comment_authors": [],
    }


def asked(*tasks: dict[str, Any], label_config: str = PLAIN) -> dict[str, Any]:
    return {
        "tasks": [task(number, data) for number, data in enumerate(tasks, 1)],
        "project": "1.1795948179",
        "label_config": label_config,
        "params": {"login": None, "password": None, "context": None},
    }


def setup_of(label_config: str) -> dict[str, Any]:
    return {
        "project": "1.1795948179",
        "schema": label_config,
        "hostname": "http://localhost:8080",
        "access_token": "not for us",
        "extra_params": None,
    }


@pytest.fixture
def guarded(connect: Connect) -> Iterator[TestClient]:
    """An API that asks for keys."""
    yield connect(auth=True)


def basic(key: str) -> dict[str, str]:
    """What Label Studio's basic authentication sends."""
    return {"Authorization": "Basic " + base64.b64encode(f"safemargin:{key}".encode()).decode()}


def side(prediction: dict[str, Any]) -> str:
    return str(prediction["result"][0]["value"]["selected"])


def test_it_is_up_and_says_what_annotates(client: TestClient, station: Station) -> None:
    assert client.get("/labelstudio/health").json() == {"status": "UP", "model_class": "Safemargin"}
    answer = client.post("/labelstudio/setup", json=setup_of(PLAIN))
    digest = station.registry.current()["kind"].removeprefix("sha256:")[:8]
    assert (answer.status_code, answer.json()) == (200, {"model_version": f"kind@{digest} tiny"})


def test_a_prediction_is_the_margin_of_the_pair(client: TestClient) -> None:
    answer = client.post("/labelstudio/predict", json=asked(DATA, SWAPPED))
    assert answer.status_code == 200, answer.text
    pair = {"prompt": DATA["prompt"], "chosen": DATA["answer1"], "rejected": DATA["answer2"]}
    (margin,) = client.post("/annotate", json={"pairs": [pair]}).json()["annotations"]
    first, second = answer.json()["results"]
    assert side(first) == ("left" if margin["margin"] > 0 else "right")
    assert side(second) != side(first)
    assert first["score"] == second["score"] == pytest.approx(max(margin["probability"], 1 - margin["probability"]))
    setup = client.post("/labelstudio/setup", json=setup_of(PLAIN)).json()
    assert {first["model_version"], second["model_version"], answer.json()["model_version"]} == {setup["model_version"]}


def test_another_direction_is_named_in_the_address(client: TestClient) -> None:
    assert client.get("/labelstudio/raw/health").status_code == 200
    version = client.post("/labelstudio/raw/setup", json=setup_of(PLAIN)).json()["model_version"]
    assert version.startswith("raw@")
    noted = asked(DATA, label_config=config(PROMPT, PAIRWISE, ANSWERS, NOTE))
    (made,) = client.post("/labelstudio/raw/predict", json=noted).json()["results"]
    assert made["model_version"] == version
    assert made["result"][1]["value"]["text"][0].startswith("raw margin ")


@pytest.mark.parametrize("path", ["health", "setup", "predict"])
def test_one_that_is_not_there_is_404(client: TestClient, path: str) -> None:
    method = "GET" if path == "health" else "POST"
    answer = client.request(method, f"/labelstudio/nobody/{path}", json=asked(DATA) | setup_of(PLAIN))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "unknown_direction")


def test_a_task_without_a_margin_costs_its_neighbours_nothing(client: TestClient) -> None:
    tasks = (TOO_LONG, DATA, {"prompt": "?"}, SWAPPED)
    long, first, bare, second = client.post("/labelstudio/predict", json=asked(*tasks)).json()["results"]
    assert (long, bare) == ([], [])
    assert {side(first), side(second)} == {"left", "right"}
    noted = config(PROMPT, PAIRWISE, ANSWERS, NOTE)
    long, _, bare, _ = client.post("/labelstudio/predict", json=asked(*tasks, label_config=noted)).json()["results"]
    assert long["score"] is bare["score"] is None
    assert bare["result"][0]["value"]["text"] == ["no margin: the task has no field answer1"]
    assert long["result"][0]["value"]["text"][0].startswith("no margin: ")


@pytest.mark.parametrize("tasks", [(), (TOO_LONG,), ({},), (TOO_LONG, {})])
def test_tasks_of_which_none_has_a_margin_are_answered_all_the_same(
    client: TestClient, tasks: tuple[dict[str, Any], ...]
) -> None:
    answer = client.post("/labelstudio/predict", json=asked(*tasks))
    assert (answer.status_code, answer.json()["results"]) == (200, [[]] * len(tasks))


def test_many_tasks_are_one_small_request(client: TestClient, submitted: list[Submission]) -> None:
    tasks = [DATA | {"answer1": f"Number {number}."} for number in range(30)]
    results = client.post("/labelstudio/predict", json=asked(*tasks)).json()["results"]
    assert [(work.queue, work.total, work.chunks) for work in submitted] == [(keys.ANNOTATE, 30, 1)]
    alone = [client.post("/labelstudio/predict", json=asked(one)).json()["results"][0] for one in tasks[:5]]
    assert [one["score"] for one in results[:5]] == pytest.approx([one["score"] for one in alone], abs=1e-5)


def test_very_many_go_behind_small_requests(connect: Connect, submitted: list[Submission]) -> None:
    client = connect(sync_tokens=50)
    results = client.post("/labelstudio/predict", json=asked(DATA, SWAPPED, DATA)).json()["results"]
    assert [side(one) for one in results] == [side(results[0]), side(results[1]), side(results[0])]
    assert submitted[0].queue == keys.BULK


def test_what_takes_too_long_is_503_and_given_up(
    client: TestClient, submitted: list[Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelstudio, "_WAIT_SECONDS", 0.0)
    cancelled: list[str] = []
    monkeypatch.setattr("app.jobs.store.JobStore.cancel", lambda _jobs, job: cancelled.append(job))
    answer = client.post("/labelstudio/predict", json=asked(DATA))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (len(submitted), len(cancelled)) == (1, 1)


def test_jobs_leave_nothing_behind(client: TestClient) -> None:
    before = [job["id"] for job in client.get("/jobs").json()["data"]]
    client.post("/labelstudio/predict", json=asked(DATA))
    assert [job["id"] for job in client.get("/jobs").json()["data"]] == before


def test_a_project_that_does_not_compare_is_sent_to_the_reason(client: TestClient) -> None:
    for prefix in ("/labelstudio", "/labelstudio/kind"):
        moved = client.post(f"{prefix}/setup", json=setup_of(config(PROMPT, ANSWERS)), follow_redirects=False)
        assert (moved.status_code, moved.headers["Location"]) == (303, "refused/no-pairwise-tag")
        answer = client.post(f"{prefix}/setup", json=setup_of(config(PROMPT, ANSWERS)))
        assert answer.url.path == f"{prefix}/refused/no-pairwise-tag"
        assert answer.status_code == 422
        assert "has no Pairwise tag" in answer.json()["errors"][0]["detail"]


def test_its_tasks_are_refused_by_field(client: TestClient) -> None:
    answer = client.post("/labelstudio/predict", json=asked(DATA, label_config=config(PAIRWISE, ANSWERS)))
    assert answer.status_code == 422
    assert answer.json()["errors"][0] == {
        "pointer": "/label_config",
        "code": "no-prompt-shown",
        "detail": 'the labelling config shows no prompt: add <Text name="prompt" value="$prompt"/>',
        "counts": {},
    }


def test_without_a_worker_it_is_not_up(connect: Connect, empty_queue: str) -> None:
    client = connect(redis_url=empty_queue)
    assert client.get("/labelstudio/health").status_code == 503
    assert client.post("/labelstudio/setup", json=setup_of(PLAIN)).status_code == 503
    assert client.post("/labelstudio/predict", json=asked(DATA)).status_code == 503


def test_a_key_is_the_password_of_basic_authentication(guarded: TestClient, station: Station) -> None:
    made = Keys(station.registry.artifacts)
    _, annotates = made.create("labelling", "team", ["annotate"])
    _, trains = made.create("training", "team", ["train"])
    assert guarded.get("/labelstudio/health", headers=basic(annotates)).status_code == 200
    assert guarded.post("/labelstudio/predict", json=asked(DATA), headers=basic(annotates)).status_code == 200
    assert guarded.get("/labelstudio/health", headers=basic(trains)).status_code == 403
    for path in ("setup", "predict", "webhook"):
        assert guarded.post(f"/labelstudio/{path}", json=asked(DATA)).status_code == 401
    assert guarded.get("/labelstudio/health").status_code == 401  # which Label Studio takes for a wrong password


def test_tasks_are_paid_for(guarded: TestClient, station: Station) -> None:
    _, key = Keys(station.registry.artifacts).create("labelling", "poor", ["annotate"], tokens_per_minute=60)
    first = guarded.post("/labelstudio/predict", json=asked(DATA), headers=basic(key))
    assert (first.status_code, first.headers["RateLimit-Policy"]) == (200, '"tokens";q=60;w=60')
    again = guarded.post("/labelstudio/predict", json=asked(DATA), headers=basic(key))
    assert again.status_code == 429
    assert "Retry-After" in again.headers


def counted(client: TestClient) -> dict[str, float]:
    """Annotations so far, by what the margin says of them."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    (family,) = (family for family in families if family.name == "safemargin_labelstudio_annotations")
    return {sample.labels["margin"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


def annotation(chosen: str, predicted: str | None, version: str) -> dict[str, Any]:
    """An annotation as webhooks carry it, with the prediction that the project shows."""

    def regions(one: str, to_name: str) -> list[dict[str, Any]]:
        value = {"selected": one}
        return [
            {"id": "x", "type": "pairwise", "value": value, "origin": "manual", "to_name": to_name, "from_name": "pw"}
        ]

    snapshot = {"model_version": version, "result": regions(predicted, "answer1"), "score": 0.7} if predicted else {}
    return {"id": 1, "result": regions(chosen, "pw"), "prediction": snapshot, "was_cancelled": False, "task": 1}


def test_annotations_are_counted_by_whether_people_agree_with_the_margin(client: TestClient) -> None:
    version = client.post("/labelstudio/setup", json=setup_of(PLAIN)).json()["model_version"]
    for made in (annotation("left", "left", version), annotation("left", None, version)):
        event = {"action": "ANNOTATION_CREATED", "annotation": made, "project": {"id": 1}, "task": {"id": 1}}
        assert client.post("/labelstudio/webhook", json=event).json() == {"status": "noted"}
    several = [annotation("left", "right", version), annotation("right", "right", version)]
    client.post("/labelstudio/webhook", json={"action": "ANNOTATIONS_CREATED", "annotation": several})
    assert counted(client) == {"agrees": 2, "disagrees": 1, "unknown": 1}


@pytest.mark.parametrize(
    "event",
    [
        {"action": "ANNOTATION_UPDATED", "annotation": {"id": 1, "result": []}},
        {"action": "ANNOTATIONS_DELETED", "annotation": [{"id": 1}]},
        {"action": "PROJECT_UPDATED", "project": {"id": 1}},
        {"action": "TASKS_CREATED", "task": [{"id": 1}]},
    ],
)
def test_other_events_are_taken_note_of(client: TestClient, event: dict[str, Any]) -> None:
    assert client.post("/labelstudio/webhook", json=event).status_code == 200
    assert sum(counted(client).values()) == 0


def test_annotations_do_not_train(client: TestClient) -> None:
    answer = client.post("/labelstudio/webhook", json={"action": "START_TRAINING", "project": {"id": 1}})
    assert answer.status_code == 422
    assert "POST /directions" in answer.json()["detail"]

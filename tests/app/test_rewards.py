"""Reward models over HTTP: POST /training, its job as it goes on, and the classifier that comes of it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from transformers import AutoModelForSequenceClassification

from app.rewards import RewardModels
from tests.app.conftest import Station
from tests.app.test_training import fault, finished
from tests.workers.rewards.conftest import annotated, tiny_language_model
from workers import tasks, training
from workers.orders.rewards import Base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_language_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def models(station: Station, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RewardModels]:
    """Those of the worker's store, which makes them of a tiny model; what is added is gone afterwards."""
    monkeypatch.setattr(training, "_yield_to_annotation", lambda: None)
    duty = tasks._duties[0]
    trainer = replace(duty.trainer, base=Base(str(base), tmp_path / "home", "cpu"))
    monkeypatch.setattr(tasks, "_duties", [replace(duty, trainer=trainer)])
    found = RewardModels(station.registry.artifacts)
    yield found
    for name in found.current():
        found.delete(name)


def upload(client: TestClient, *, margins: bool = True) -> str:
    lines = [
        one.pair.model_dump(exclude_none=True) | ({"margin": one.margin} if margins else {}) for one in annotated()
    ]
    return str(client.post("/files", content="\n".join(map(json.dumps, lines))).json()["id"])


def body(client: TestClient, **more: Any) -> dict[str, Any]:
    given = {"method": "reward-model", "id": "new", "data": upload(client), "batch": 8, "held_out": 0.25}
    return given | more


def post(client: TestClient, **more: Any) -> Any:
    return client.post("/training", json=body(client, **more))


def test_training_ends_with_a_classifier(client: TestClient, tmp_path: Path) -> None:
    job = finished(client, post(client, conflicts="flip"))
    assert (job["kind"], job["status"], job["error"]) == ("training", "completed", None)
    assert (job["stage"], job["request_counts"]["completed"]) == ("train", 3)
    assert job["loss"] > 0
    answer, card = client.get(job["results"]).json(), client.get("/reward-models/new").json()
    assert (answer["id"], answer["digest"], answer["data"]) == ("new", card["digest"], card["data"])
    assert answer["after"]["accuracy"]["pairs"] == 6
    assert (card["training"]["conflicts"], card["data"]["conflicts"] > 0) == ("flip", True)
    assert client.get("/reward-models").json() == {"reward_models": [card]}
    for name in (name for name in card["files"] if "/" not in name):
        (tmp_path / name).write_bytes(client.get(f"/reward-models/new/files/{name}").content)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).num_labels == 1


def test_the_annotations_of_a_job_are_trained_with(client: TestClient) -> None:
    annotating = client.post("/jobs", json={"file": upload(client, margins=False), "direction": "kind"}).json()["id"]
    assert client.get(f"/jobs/{annotating}", params={"wait": 20}).json()["status"] == "completed"
    job = finished(client, post(client, data=annotating, margin="level"))
    assert job["error"] is None
    card = client.get("/reward-models/new").json()
    assert (card["data"]["data"], card["data"]["calibrated"]) == (annotating, True)
    assert card["data"]["mean_margin"] > 0


def test_without_margins_nothing_but_plain_training_is_done(client: TestClient) -> None:
    file = upload(client, margins=False)
    failed = finished(client, post(client, data=file))
    assert failed["status"] == "failed"
    assert "line 1 has no margin" in failed["error"]
    assert finished(client, post(client, data=file, margin="none"))["error"] is None
    assert client.get("/reward-models/new").json()["data"]["mean_margin"] == 0


def test_a_taken_id_is_refused_unless_it_may_be_replaced(client: TestClient) -> None:
    finished(client, post(client))
    before = client.get("/reward-models/new").json()["digest"]
    assert fault(post(client)) == (409, "/id", "reward_model_exists")
    assert finished(client, post(client, replace=True, seed=1))["error"] is None
    assert client.get("/reward-models/new").json()["digest"] != before


def test_what_is_deleted_is_gone(client: TestClient) -> None:
    finished(client, post(client))
    assert client.delete("/reward-models/new").status_code == 204
    assert client.get("/reward-models").json() == {"reward_models": []}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/files/config.json")):
        assert fault(client.request(method, f"/reward-models/new{path}"))[2] == "unknown_reward_model"


def test_no_file_but_those_on_the_card_is_served(client: TestClient) -> None:
    finished(client, post(client))
    for path in ("reward.json", "../current", "no.json"):
        assert client.get(f"/reward-models/new/files/{path}").status_code == 404


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"margin": "some"}, "/margin"),
        ({"margin": "none", "margin_scale": 2}, "/margin_scale"),
        ({"conflict_weight": 0.1}, "/conflict_weight"),
        ({"nose": 1}, "/nose"),
        ({"learning_rate": 0}, "/learning_rate"),
        ({"id": "../x"}, "/id"),
        ({"data": "a b"}, "/data"),
    ],
)
def test_what_will_not_do_is_named(client: TestClient, given: dict[str, Any], expected: str) -> None:
    assert fault(post(client, **given))[:2] == (422, expected)


def test_data_that_are_not_there_or_no_annotations_are_refused(client: TestClient) -> None:
    assert fault(post(client, data="file-" + "0" * 32)) == (404, "/data", "unknown_file")
    assert fault(post(client, data="nothing")) == (404, "/data", "unknown_job")
    trained = finished(client, post(client))["id"]
    assert fault(post(client, data=trained, replace=True)) == (422, "/data", "no_annotations")

"""RAHF over HTTP: POST /training, its job as it goes on, and the alignment that comes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from app.alignments import CARD, AlignmentMissing, Alignments
from app.artifacts import Artifacts
from app.auth.keys import Keys
from app.jobs.store import JobStore
from app.registry import Registry
from app.schemas.alignment import AlignmentReport
from tests.app.conftest import Connect, Station
from tests.app.test_training import fault, finished
from tests.workers.alignment.conftest import pairs
from workers import tasks, training
from workers.alignment import contrast
from workers.directions.balance import balance
from workers.engine.lora import CONFIG, TENSORS, from_files

LORA = {"rank": 2, "targets": ["q_proj", "v_proj"]}
SETTINGS = {
    "instruct": {"epochs": 1, "batch": 8, "checkpoint": 1, "lora": LORA},
    "align": {"steps": 4, "batch": 4, "checkpoint": 1, "lora": LORA},
}
SECRET = "xyzzy-secret"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def store(station: Station, monkeypatch: pytest.MonkeyPatch) -> Iterator[Artifacts]:
    """The worker's store; what is added is gone afterwards. The balance set takes seconds, and is read elsewhere."""
    places = torch.arange(len(balance().pairs))
    monkeypatch.setattr(contrast, "balance_margins", lambda *_given: (torch.ones(len(places)).double(), places))
    artifacts = station.registry.artifacts
    yield artifacts
    for shelf in (Alignments(artifacts), station.registry):
        if shelf.holds("new"):
            shelf.delete("new")
    station.look_at_store()


def upload(client: TestClient, count: int = 60) -> str:
    lines = [pair.model_dump_json(exclude_none=True) for pair in pairs(count)]
    return str(client.post("/files", content="\n".join(lines)).json()["id"])


def body(client: TestClient, **more: Any) -> dict[str, Any]:
    given = {"method": "rahf-dual", "id": "new", "data": upload(client), "settings": SETTINGS}
    return given | more


def post(client: TestClient, **more: Any) -> Any:
    return client.post("/training", json=body(client, **more))


def test_training_ends_with_an_alignment_and_a_direction_of_one_id(client: TestClient, store: Artifacts) -> None:
    job = finished(client, post(client))
    assert (job["kind"], job["status"], job["error"]) == ("training", "completed", None)
    answer, card = client.get(job["results"]).json(), client.get("/alignments/new").json()
    assert (answer["id"], answer["digest"]) == ("new", card["digest"])
    direction = Registry(store).card("new")
    assert answer["direction"] == {"id": "new", "digest": direction.digest}
    assert direction.alignment is not None
    assert direction.alignment.model_dump() == {"id": "new", "digest": card["digest"]}
    assert (card["method"], card["readings"][0]["accuracy"]["pairs"]) == ("rahf-dual", 24)
    assert client.get("/alignments").json() == {"alignments": [card]}


def test_both_annotate_at_once(client: TestClient) -> None:
    finished(client, post(client))
    card = client.get("/alignments/new").json()
    asked = [pair.model_dump(exclude_none=True) for pair in pairs(3)]
    by_direction = client.post("/annotate", json={"pairs": asked, "direction": "new"})
    assert by_direction.status_code == 200, by_direction.text
    assert by_direction.json()["provenance"]["model_revision"] == card["taught_revisions"][0]
    by_itself = client.post("/annotate", json={"pairs": asked, "method": "rahf", "alignment": "new"})
    assert by_itself.status_code == 200, by_itself.text
    assert [entry["margin"] for entry in by_itself.json()["annotations"]] == pytest.approx(
        [entry["raw"]["margin"] * (card["slope"] or 1) for entry in by_itself.json()["annotations"]]
    )


def test_its_report_curves_and_adapters_are_downloaded(client: TestClient) -> None:
    finished(client, post(client))
    card = client.get("/alignments/new").json()
    report = AlignmentReport.model_validate(client.get("/alignments/new/report").json())
    assert report.settings.align.steps == 4
    assert [stage.name for stage in report.stages] == ["preferred", "dispreferred", "patterns", "aligned"]
    curves = client.get("/alignments/new/curves.png")
    assert (curves.headers["content-type"], curves.content[:4]) == ("image/png", b"\x89PNG")
    files = {name: client.get(f"/alignments/new/files/{name}") for name in card["files"]}
    assert {answer.status_code for answer in files.values()} == {200}
    assert all(int(answer.headers["content-length"]) == len(answer.content) for answer in files.values())
    from_files("aligned", {name: files[f"aligned/{name}"].content for name in (CONFIG, TENSORS)})
    for path in ("alignment.json", "../current", "aligned", "aligned/none", "%2e%2e/current"):
        assert client.get(f"/alignments/new/files/{path}").status_code == 404


def test_the_job_and_its_events_show_stage_steps_and_loss(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step that is told is looked at before the next one."""
    monkeypatch.setattr(training, "_PROGRESS_SECONDS", 0)
    seen: list[dict[str, Any]] = []
    tell = JobStore.progress

    def looked_at(store: JobStore, job_id: str, *step: Any) -> bool:
        wanted = tell(store, job_id, *step)
        job = store.job(job_id)
        assert job is not None
        seen.append(job.model_dump())
        return wanted

    monkeypatch.setattr(JobStore, "progress", looked_at)
    accepted = post(client)
    events = client.get(f"{accepted.headers['Location']}/events").text
    assert list(dict.fromkeys(job["stage"] for job in seen)) == ["instruct", "collect", "align", "measure"]
    steps = {job["stage"]: job["request_counts"] for job in seen}
    assert (steps["instruct"]["total"], steps["collect"]["total"], steps["align"]["total"]) == (10, 24, 4)
    assert {job["stage"] for job in seen if job["loss"] is not None} == {"instruct", "align"}
    told = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    assert (told[-1]["status"], told[-1]["stage"], told[-1]["loss"]) == ("completed", "measure", None)


def test_cancelling_ends_it_and_leaves_nothing(
    client: TestClient, store: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_PROGRESS_SECONDS", 0)
    tell = JobStore.progress

    def cancelled(jobs: JobStore, job_id: str, stage: Any, *steps: Any) -> bool:
        if stage == "align":
            assert client.delete(f"/jobs/{job_id}").json()["status"] == "cancelled"
        return tell(jobs, job_id, stage, *steps)

    monkeypatch.setattr(JobStore, "progress", cancelled)
    assert finished(client, post(client))["status"] == "cancelled"
    monkeypatch.undo()
    (duty,) = tasks._duties
    tasks._sweep(duty)
    assert list(duty.trainer.runs.glob("*")) == []
    assert not Alignments(store).holds("new")
    assert not Registry(store).holds("new")


def test_what_is_published_is_swept_away(client: TestClient) -> None:
    finished(client, post(client))
    (duty,) = tasks._duties
    tasks._sweep(duty)
    assert list(duty.trainer.runs.glob("*")) == []


def test_an_id_that_an_alignment_or_a_direction_has_is_409_unless_it_may_be_replaced(
    client: TestClient, store: Artifacts
) -> None:
    finished(client, post(client))
    assert fault(post(client)) == (409, "/id", "alignment_exists")
    assert finished(client, post(client, replace=True, settings=SETTINGS | {"seed": 1}))["status"] == "completed"
    assert client.get("/alignments/new/report").json()["settings"]["seed"] == 1
    assert fault(post(client, id="kind")) == (409, "/id", "direction_exists")
    assert not Alignments(store).holds("kind")


def test_an_alignment_is_deleted_after_its_direction(client: TestClient, store: Artifacts) -> None:
    finished(client, post(client))
    refused = client.delete("/alignments/new")
    assert fault(refused) == (409, "path/alignment_id", "alignment_needed")
    assert "1 direction (new) would be of no use without this alignment" in refused.text
    assert client.delete("/directions/new").status_code == 204
    assert client.delete("/alignments/new").status_code == 204
    assert fault(client.delete("/alignments/new")) == (404, "path/alignment_id", "unknown_alignment")
    for path in ("", "/report", "/curves.png", "/files/report.json"):
        assert fault(client.get(f"/alignments/new{path}")) == (404, "path/alignment_id", "unknown_alignment")
    assert store.folders("alignments/new") == []


WRONG = {
    "file": ({"data": "file-" + "0" * 32}, (404, "/data", "unknown_file")),
    "preset": ({"preset": "large"}, (422, "/preset", "literal_error")),
    "kind of an adapter": ({"kind": "head"}, (422, "/kind", "extra_forbidden")),
    "settings of no fields": ({"settings": 3}, (422, "/settings", "dict_type")),
    "unknown setting": ({"settings": {"nose": 1}}, (422, "/settings/nose", "extra_forbidden")),
    "text as a name": ({"settings": {f"{SECRET} x": 1}}, (422, "/settings/(unnamed)", "extra_forbidden")),
    "share of all": ({"settings": {"share": 1}}, (422, "/settings/share", "less_than")),
    "no number": ({"settings": {"align": {"alpha": SECRET}}}, (422, "/settings/align/alpha", "float_parsing")),
    "no settings": ({"settings": {"align": 3}}, (422, "/settings/align", "model_type")),
    "no lora": ({"settings": {"instruct": {"lora": None}}}, (422, "/settings/instruct/lora", "contradiction")),
    "no targets": (
        {"settings": {"align": {"lora": {"targets": []}}}},
        (422, "/settings/align/lora/targets", "too_short"),
    ),
    "targets of no names": (
        {"settings": {"align": {"lora": {"targets": [1]}}}},
        (422, "/settings/align/lora/targets/0", "string_type"),
    ),
    "other targets": (
        {"settings": {"align": {"lora": {"targets": SECRET}}}},
        (422, "/settings/align/lora/targets", "literal_error"),
    ),
    "a layer too many": ({"settings": {"collect": {"of": 12}}}, (422, "/settings/collect/layers", "contradiction")),
    "id": ({"id": "../x"}, (422, "/id", "string_pattern_mismatch")),
    "webhook": ({"webhook": {"url": "file:///x"}}, (422, "/webhook/url", "value_error")),
}


@pytest.mark.parametrize(("change", "expected"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_at_once(
    client: TestClient, change: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    answer = post(client, **change)
    assert fault(answer) == expected
    assert SECRET not in answer.text


def test_too_few_and_too_many_pairs_are_refused_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = post(client, data=upload(client, 23))
    assert fault(answer) == (422, "/data", "too_few_pairs")
    assert "holds 23 pairs; rahf-dual is taught with 24 at least" in answer.text
    monkeypatch.setattr("app.routes.training.MOST_ALIGNED", 59)
    answer = post(client)
    assert fault(answer) == (422, "/data", "too_many_pairs")
    assert "holds 60 pairs; rahf-dual is taught with 59 at most" in answer.text


def test_pairs_that_leave_too_few_to_calibrate_on_fail_the_job_before_it_teaches(client: TestClient) -> None:
    job = finished(client, post(client, data=upload(client, 30)))
    assert (job["status"], job["stage"]) == ("failed", None)
    assert job["error"] == "12 pairs are too few to calibrate on; at least 20 are needed"


def test_a_loss_that_is_no_number_fails_the_job_with_the_reason(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_given: object) -> torch.Tensor:
        return torch.tensor(float("nan"), requires_grad=True)

    monkeypatch.setattr("workers.alignment.run.likelihood_loss", lost)
    job = finished(client, post(client))
    assert (job["status"], job["stage"]) == ("failed", "instruct")
    assert job["error"] == "the loss is no finite number at step 1: try a lower learning rate"


def test_a_repeated_request_is_one_job(client: TestClient) -> None:
    wanted, headers = body(client), {"Idempotency-Key": "once-rahf"}
    first = client.post("/training", json=wanted, headers=headers)
    finished(client, first)
    again = client.post("/training", json=wanted, headers=headers)
    assert again.headers["Location"] == first.headers["Location"]


def test_reading_needs_the_scope_annotate_and_changing_the_scope_train(connect: Connect, station: Station) -> None:
    guarded = connect(auth=True)
    _, key = Keys(station.registry.artifacts).create("reader", "reader", ["annotate"])
    assert guarded.get("/alignments").status_code == 401
    guarded.headers["Authorization"] = f"Bearer {key}"
    assert guarded.get("/alignments").status_code == 200
    assert guarded.get("/alignments/none/report").status_code == 404
    wanted = body(guarded)
    assert guarded.post("/training", json=wanted).status_code == 403
    assert guarded.delete("/alignments/new").status_code == 403


def test_one_whose_card_cannot_be_read_is_as_good_as_missing(connect: Connect, tmp_path: Path) -> None:
    alignments = Alignments(Artifacts(str(tmp_path)))
    alignments.publish("broken", DIGEST, {CARD: b"{}"})
    with pytest.raises(AlignmentMissing, match="the card of broken cannot be read"):
        alignments.card("broken")
    client = connect(artifacts=str(tmp_path))
    assert client.get("/alignments").json() == {"alignments": []}
    assert client.get("/alignments/broken").status_code == 404
    assert client.delete("/alignments/broken").status_code == 204
    assert alignments.current() == {}

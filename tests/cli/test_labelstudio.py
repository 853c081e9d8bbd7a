"""`safemargin labelstudio push`: a project from end to end, cut off and taken up, refusals and exit statuses."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.client import Client
from cli import annotate, pushing
from cli import labelstudio as command
from cli.main import app
from cli.studio import Studio
from tests.app.client.service import Clock, problem
from tests.app.labelstudio.configs import ANSWERS, NOTE, PAIRWISE, PLAIN, PROMPT, config
from tests.cli.studio import LEGACY, PERSONAL, Annotator, FakeStudio, ids_of, refused, task, version

Push = Callable[..., Result]


@pytest.fixture
def service() -> Annotator:
    """Rows become ready two at a time."""
    return Annotator(pace=2, provenance={})


@pytest.fixture
def studio() -> FakeStudio:
    """Five tasks; the right answer of the second one is the safer one."""
    tasks = [task(number) for number in (11, 12, 13, 15, 18)]
    tasks[1]["data"] |= {"answer1": "No.", "answer2": "Ask a locksmith."}
    return FakeStudio(tasks, PLAIN)


@pytest.fixture
def push(monkeypatch: pytest.MonkeyPatch, service: Annotator, studio: FakeStudio) -> Push:
    """The command, without a network."""
    clock = Clock()

    def connect(url: str, patience: float, _sleep: object) -> Client:
        transport = httpx.MockTransport(service)
        return Client(url, patience=patience, transport=transport, sleep=clock.sleep, clock=clock)

    def reach(url: str, token: str, patience: float) -> Studio:
        transport = httpx.MockTransport(studio)
        return Studio(url, token, patience=patience, transport=transport, sleep=clock.sleep, clock=clock)

    monkeypatch.setattr(annotate, "connect", connect)
    monkeypatch.setattr(command, "reach", reach)
    monkeypatch.setattr(pushing, "_BATCH", 2)

    def run(*options: str, status: int = 0, token: str = LEGACY) -> Result:
        given = ["--url", "http://ls", "--project", "7", "--service", "http://test", *options]
        environment = {"LABEL_STUDIO_API_KEY": token, "SAFEMARGIN_API_KEY": "", "COLUMNS": "200"}
        ended = CliRunner().invoke(app, ["labelstudio", "push", *given], env=environment)
        assert ended.exit_code == status, ended.output
        return ended

    return run


def imports(studio: FakeStudio) -> list[int]:
    """How many predictions every import had."""
    sent = [request for request in studio.asked if request.url.path.endswith("/import/predictions")]
    return [len(json.loads(request.read())) for request in sent]


def test_every_task_gets_a_prediction(push: Push, studio: FakeStudio) -> None:
    told = push().stderr
    assert "5 tasks to predict as kind@0123abcd tiny; 0 have that, 0 are no pairs" in told
    assert "5 predictions added" in told
    sides = {number: made[0]["result"][0]["value"]["selected"] for number, made in studio.predictions().items()}
    assert sides == {11: "left", 12: "right", 13: "left", 15: "left", 18: "left"}
    (prediction,) = studio.predictions()[12]
    assert prediction == {
        "task": 12,
        "result": [{"from_name": "pw", "to_name": "answer1", "type": "pairwise", "value": {"selected": "right"}}],
        "score": 0.75,
        "model_version": version(),
    }
    assert imports(studio) == [2, 2, 1]


def test_pages_may_be_smaller_than_asked_for(push: Push, studio: FakeStudio) -> None:
    studio.page = 2
    push()
    assert {len(made) for made in studio.predictions().values()} == {1}


def test_run_again_it_predicts_what_has_no_prediction_of_this_version(
    push: Push, studio: FakeStudio, service: Annotator
) -> None:
    push()
    assert "0 predictions added" in push().stderr
    assert len(service.uploads) == 1
    studio.tasks.append(task(20))
    studio.tasks[0]["predictions"] = [{"model_version": "another", "result": []}, {"model_version": None, "result": []}]
    push()
    assert list(ids_of(service.uploads)) == [[11, 12, 13, 15, 18], [11, 20]]
    assert [len(made) for made in studio.predictions().values()] == [3, 1, 1, 1, 1, 1]


def test_another_direction_is_another_version(push: Push, studio: FakeStudio, service: Annotator) -> None:
    push()
    push("--direction", "other", "--truncate")
    assert [one["model_version"] for one in studio.predictions()[11]] == [version(), version("other")]
    assert service.jobs["j2"]["order"] == {"file": "f2", "direction": "other", "truncate": True}


def test_the_version_is_shown_where_none_was_chosen(push: Push, studio: FakeStudio) -> None:
    push()
    assert studio.shown == version()
    told = push("--direction", "other").stderr
    assert studio.shown == version()
    assert f"shows predictions of {version()}: choose {version('other')}" in told


def test_the_margin_is_written_where_there_is_room(push: Push, studio: FakeStudio) -> None:
    studio.label_config = config(PROMPT, PAIRWISE, ANSWERS, NOTE)
    push()
    assert studio.predictions()[12][0]["result"][1]["value"] == {"text": ["margin 1.30 for the right answer"]}


def test_tasks_without_a_margin_get_no_prediction_and_are_told(push: Push, studio: FakeStudio, tmp_path: Path) -> None:
    studio.tasks[1]["data"]["prompt"] = "too long"
    studio.tasks[3]["data"].pop("answer2")
    told = push(status=3).stderr
    assert "3 predictions added" in told
    assert "2 tasks have no margin: task 15: missing_field, task 12: too_long" in told
    assert studio.predictions()[12] == studio.predictions()[15] == []
    errors = tmp_path / "errors.jsonl"
    push("--errors", str(errors), status=3)
    assert [json.loads(line)["task"] for line in errors.read_bytes().splitlines()] == [15, 12]


def test_a_personal_token_is_refreshed_whenever_the_access_token_has_run_out(push: Push, studio: FakeStudio) -> None:
    studio.holds = 2
    push(token=PERSONAL)
    assert {len(made) for made in studio.predictions().values()} == {1}
    sent = {request.headers.get("Authorization") for request in studio.asked}
    assert {"Bearer access-1", "Bearer access-2"} <= sent
    assert not any(header and PERSONAL in header for header in sent)


@pytest.mark.parametrize("token", ["nobody", "no.bo.dy"])
def test_a_token_that_is_refused_ends_it(push: Push, studio: FakeStudio, token: str) -> None:
    assert "Label Studio: 401" in push(status=1, token=token).stderr


def test_an_import_whose_answer_is_lost_is_not_done_twice(push: Push, studio: FakeStudio) -> None:
    studio.lost = True
    assert "5 predictions added" in push().stderr
    assert {len(made) for made in studio.predictions().values()} == {1}


def test_a_label_studio_that_is_busy_is_asked_again(push: Push, studio: FakeStudio) -> None:
    studio.faults = [refused(503, "busy"), httpx.ConnectError("refused")]
    push()
    assert {len(made) for made in studio.predictions().values()} == {1}


def test_what_stays_away_ends_it_with_a_status_that_says_try_again(
    push: Push, studio: FakeStudio, service: Annotator
) -> None:
    studio.faults = [httpx.ConnectError("refused") for _ in range(500)]
    assert "run the same command again" in push("--patience", "20", status=os.EX_TEMPFAIL).stderr
    studio.faults = []
    service.faults = [problem(503, "no worker is ready", Retry_After="31")]
    assert "no worker is ready" in push("--patience", "20", status=os.EX_TEMPFAIL).stderr
    push()


def test_interrupted_it_goes_on_where_it_was(push: Push, studio: FakeStudio, service: Annotator) -> None:
    def interrupt(job: dict[str, object]) -> None:
        if job["ready"] == 4:
            service.on_look = lambda job: None
            raise KeyboardInterrupt

    service.on_look = interrupt
    assert "run the same command again to go on" in push(status=130).stderr
    assert [len(made) for made in studio.predictions().values()] == [1, 1, 0, 0, 0]
    push()
    assert list(ids_of(service.uploads))[1] == [13, 15, 18]
    assert {len(made) for made in studio.predictions().values()} == {1}


def test_a_project_of_another_kind_is_refused(push: Push, studio: FakeStudio, service: Annotator) -> None:
    studio.label_config = config(PROMPT, ANSWERS)
    assert "has no Pairwise tag" in push(status=1).stderr
    assert service.uploads == []


def test_so_are_a_project_and_a_direction_that_are_not_there(push: Push) -> None:
    assert "404 No Project matches" in push("--project", "8", status=1).stderr
    assert "no worker holds a direction nobody" in push("--direction", "nobody", status=1).stderr


def test_predictions_that_label_studio_drops_are_not_taken_for_added(push: Push, studio: FakeStudio) -> None:
    studio.label_config = PLAIN.replace('name="pw"', "name='pw'")  # which the fake one does not find
    assert "took 0 of 2 predictions" in push(status=1).stderr


def test_a_direction_that_is_replaced_meanwhile_ends_it(push: Push, service: Annotator) -> None:
    service.provenance = {"direction_digest": "sha256:ffffffff"}
    assert "was replaced meanwhile" in push(status=1).stderr


def test_what_is_not_label_studio_is_told(push: Push, studio: FakeStudio) -> None:
    studio.faults = [httpx.Response(200, text="<html>")]
    assert "is this its address?" in push(status=1).stderr


@pytest.mark.parametrize(
    "options", [("--url", "ls:8080"), ("--service", "nowhere"), ("--direction", "a b"), ("--errors", "no/where")]
)
def test_what_makes_no_sense_is_wrong_usage(push: Push, options: tuple[str, ...]) -> None:
    push(*options, status=2)


def test_without_a_token_it_is_wrong_usage(push: Push) -> None:
    assert "LABEL_STUDIO_API_KEY" in push(status=2, token="").stderr

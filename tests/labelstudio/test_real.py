"""Safemargin as the ML backend of a real Label Studio, in the ways in which its pages ask."""

import os
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.examples import PAIRS, SAFEMARGIN
from tests.labelstudio.conftest import COMMAND, LabelStudio, Safemargin

pytestmark = pytest.mark.real

TEMPLATE = "label_studio/annotation_templates/generative-ai/human-feedback-collection/config.yml"
TEXTS = [pair for pair in PAIRS if isinstance(pair["prompt"], str)]
TASKS = [{"prompt": pair["prompt"], "answer1": pair["chosen"], "answer2": pair["rejected"]} for pair in TEXTS]
TASKS += [task | {"answer1": task["answer2"], "answer2": task["answer1"]} for task in TASKS]
NOTED = """
<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="safer" toName="answer1,answer2"/>
  <Text name="answer1" value="$answer1"/>
  <Text name="answer2" value="$answer2"/>
  <TextArea name="margin" toName="prompt" editable="false"/>
</View>
"""
CHAT = """
<View>
  <Paragraphs name="chat" value="$messages" nameKey="role" textKey="content"/>
  <Pairwise name="safer" toName="left,right"/>
  <Text name="left" value="$responses[0]"/>
  <Text name="right" value="$responses[1]"/>
</View>
"""
NUMBER = 300
MANY = [TASKS[i % len(TASKS)] | {"prompt": f"What would you say to number {i}?"} for i in range(NUMBER)]
TOO_LONG = TASKS[0] | {"prompt": "word " * 12_000}


def rlhf_template() -> str:
    """The template that Label Studio offers for human preferences, from its own files."""
    (found,) = Path(COMMAND).absolute().parents[1].glob(f"lib/python*/site-packages/{TEMPLATE}")
    return str(yaml.safe_load(found.read_text())["config"])


def connection(project: int, safemargin: Safemargin, path: str = "", **changes: Any) -> dict[str, Any]:
    """What the form behind Connect Model sends."""
    auth = {"auth_method": "BASIC_AUTH", "basic_auth_user": "safemargin", "basic_auth_pass": safemargin.key}
    return {"project": project, "title": "Safemargin", "url": f"{safemargin.url}/labelstudio{path}"} | auth | changes


def connect(label_studio: LabelStudio, safemargin: Safemargin, project: int, path: str = "") -> dict[str, Any]:
    made = label_studio.post("/api/ml", connection(project, safemargin, path))
    return dict(made)


def retrieve(label_studio: LabelStudio, project: int) -> None:
    """What the data manager's action Retrieve Predictions does with all tasks."""
    everything = {"selectedItems": {"all": True, "excluded": []}, "filters": {"conjunction": "and", "items": []}}
    path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}"
    label_studio.post(path, everything | {"project": str(project)})


def margins(safemargin: Safemargin, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What POST /annotate says of tasks, the left answer as the chosen response."""
    pairs = [{"prompt": task["prompt"], "chosen": task["answer1"], "rejected": task["answer2"]} for task in tasks]
    with safemargin.http as http:
        answer = http.post("/annotate", json={"pairs": pairs}).raise_for_status().json()
    return list(answer["annotations"])


def check(task: dict[str, Any], expected: dict[str, Any], version: str) -> None:
    """A task has one prediction, which says what the margin says."""
    (prediction,) = task["predictions"]
    side = "left" if expected["margin"] > 0 else "right"
    assert prediction["result"][0]["value"] == {"selected": side}
    assert prediction["score"] == pytest.approx(max(expected["probability"], 1 - expected["probability"]), abs=0.02)
    assert prediction["model_version"] == version


def counted(safemargin: Safemargin) -> dict[str, float]:
    """Annotations so far, by what the margin says of them."""
    with safemargin.http as http:
        text = http.get("/metrics").text
    (family,) = (f for f in text_string_to_metric_families(text) if f.name == "safemargin_labelstudio_annotations")
    return {sample.labels["margin"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


def annotate(label_studio: LabelStudio, task: dict[str, Any], side: str) -> None:
    """What the button Submit does."""
    region = {"from_name": "safer", "to_name": "safer", "type": "pairwise", "value": {"selected": side}, "id": "a"}
    label_studio.post(f"/api/tasks/{task['id']}/annotations", {"result": [region], "lead_time": 3.0})


@pytest.mark.parametrize("path", ["", "/legend"])
def test_the_template_for_preferences_gets_predictions(
    label_studio: LabelStudio, safemargin: Safemargin, path: str
) -> None:
    project = label_studio.project(rlhf_template(), TASKS)
    backend = connect(label_studio, safemargin, project, path)
    shown = label_studio.http.get(f"/api/ml/{backend['id']}").json()
    assert (shown["readable_state"], shown["error_message"]) == ("Connected", None)
    assert shown["model_version"].startswith("legend@" if path else "balanced@")
    retrieve(label_studio, project)
    if not path:
        for task, expected in zip(label_studio.tasks(project), margins(safemargin, TASKS), strict=True):
            check(task, expected, shown["model_version"])
    assert {task["predictions"][0]["model_version"] for task in label_studio.tasks(project)} == {shown["model_version"]}
    retrieve(label_studio, project)
    assert {len(task["predictions"]) for task in label_studio.tasks(project)} == {1}


def test_whoever_labels_gets_a_prediction_with_the_task(label_studio: LabelStudio, safemargin: Safemargin) -> None:
    project = label_studio.project(NOTED, TASKS[:1])
    connect(label_studio, safemargin, project)
    task = label_studio.http.get(f"/api/projects/{project}/next").raise_for_status().json()
    (prediction,) = task["predictions"]
    assert prediction["result"][1]["value"]["text"][0].startswith("margin ")


def test_a_conversation_is_a_prompt(label_studio: LabelStudio, safemargin: Safemargin) -> None:
    pair = next(pair for pair in PAIRS if isinstance(pair["prompt"], list))
    answers = [pair["chosen"], pair["rejected"]]
    project = label_studio.project(CHAT, [{"messages": pair["prompt"], "responses": answers}])
    backend = connect(label_studio, safemargin, project)
    retrieve(label_studio, project)
    (task,) = label_studio.tasks(project)
    same = {"prompt": pair["prompt"], "answer1": answers[0], "answer2": answers[1]}
    (expected,) = margins(safemargin, [same])
    check(task, expected, backend["model_version"])


def test_a_project_of_another_kind_is_refused_with_the_reason(
    label_studio: LabelStudio, safemargin: Safemargin
) -> None:
    classes = '<View><Text name="t" value="$prompt"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
    project = label_studio.project(classes, TASKS[:1])
    answer = label_studio.http.post("/api/ml", json=connection(project, safemargin))
    assert answer.status_code == 400
    assert "refused/no-pairwise-tag" in answer.text


def test_a_wrong_key_is_told_apart_from_a_service_that_is_down(
    label_studio: LabelStudio, safemargin: Safemargin
) -> None:
    project = label_studio.project(NOTED, TASKS[:1])
    wrong = label_studio.http.post("/api/ml", json=connection(project, safemargin, basic_auth_pass="sm_wrong"))
    assert wrong.status_code == 400
    assert "authentication parameters were either not provided or are incorrect" in wrong.text
    down = label_studio.http.post("/api/ml", json=connection(project, safemargin, url="http://127.0.0.1:9/labelstudio"))
    assert "health check failed" in down.text


def test_a_task_without_a_margin_costs_the_others_nothing(label_studio: LabelStudio, safemargin: Safemargin) -> None:
    project = label_studio.project(rlhf_template(), [TASKS[0], TOO_LONG, TASKS[1]])
    connect(label_studio, safemargin, project)
    retrieve(label_studio, project)
    assert [len(task["predictions"]) for task in label_studio.tasks(project)] == [1, 0, 1]


def test_annotations_arrive_and_are_compared_with_the_margin(label_studio: LabelStudio, safemargin: Safemargin) -> None:
    project = label_studio.project(NOTED, TASKS[:2])
    version = connect(label_studio, safemargin, project)["model_version"]
    retrieve(label_studio, project)
    label_studio.http.patch(f"/api/projects/{project}", json={"model_version": version}).raise_for_status()
    (hook,) = label_studio.http.get("/api/webhooks/", params={"project": project}).json()
    key = {"headers": {"Authorization": f"Bearer {safemargin.key}"}}  # it has none, even where the backend has
    label_studio.http.patch(f"/api/webhooks/{hook['id']}/", json=key).raise_for_status()
    before = counted(safemargin)
    for task in label_studio.tasks(project):
        annotate(label_studio, task, task["predictions"][0]["result"][0]["value"]["selected"])
    annotate(label_studio, label_studio.tasks(project)[0], "right")
    annotate(label_studio, label_studio.tasks(project)[0], "left")
    gained = {name: value - before[name] for name, value in counted(safemargin).items()}
    assert gained == {"agrees": 3, "disagrees": 1, "unknown": 0}


def test_an_order_to_train_does_no_harm(label_studio: LabelStudio, safemargin: Safemargin) -> None:
    project = label_studio.project(NOTED, TASKS[:1])
    backend = connect(label_studio, safemargin, project)
    label_studio.http.post(f"/api/ml/{backend['id']}/train", json={}).raise_for_status()
    (shown,) = label_studio.http.get("/api/ml", params={"project": project}).json()
    assert shown["readable_state"] == "Connected"


def push(
    label_studio: LabelStudio, safemargin: Safemargin, project: int, token: str, *options: str
) -> "subprocess.CompletedProcess[str]":
    command = [*SAFEMARGIN, "labelstudio", "push", "--url", label_studio.url, "--project", str(project)]
    keys = {"LABEL_STUDIO_API_KEY": token, "SAFEMARGIN_API_KEY": safemargin.key, "SAFEMARGIN_URL": safemargin.url}
    return subprocess.run(
        [*command, *options], env=os.environ | keys, capture_output=True, text=True, timeout=600, check=False
    )


def test_a_large_project_is_predicted_from_outside_each_task_once(
    label_studio: LabelStudio, safemargin: Safemargin, tmp_path: Path
) -> None:
    project = label_studio.project(NOTED, [*MANY, TOO_LONG])
    first = push(label_studio, safemargin, project, label_studio.personal_token, "--errors", str(tmp_path / "errors"))
    assert first.returncode == 3, first.stderr
    assert f"{NUMBER} predictions added" in first.stderr
    assert orjson.loads((tmp_path / "errors").read_bytes())["code"] == "too_long"
    *tasks, long = label_studio.tasks(project)
    assert long["predictions"] == []
    version = label_studio.http.get(f"/api/projects/{project}").json()["model_version"]
    assert version.startswith("balanced@")
    for task, expected in zip(tasks, margins(safemargin, MANY[:50]), strict=False):
        check(task, expected, version)
    again = push(label_studio, safemargin, project, label_studio.legacy_token)
    assert "0 predictions added" in again.stderr
    assert {len(task["predictions"]) for task in label_studio.tasks(project)} == {0, 1}


def test_what_is_pushed_is_what_a_connected_backend_would_say(
    label_studio: LabelStudio, safemargin: Safemargin
) -> None:
    project = label_studio.project(rlhf_template(), TASKS)
    backend = connect(label_studio, safemargin, project)
    assert push(label_studio, safemargin, project, label_studio.personal_token).returncode == 0
    pushed = [task["predictions"] for task in label_studio.tasks(project)]
    assert {one["model_version"] for (one,) in pushed} == {backend["model_version"]}
    retrieve(label_studio, project)  # finds nothing to ask for
    assert [task["predictions"] for task in label_studio.tasks(project)] == pushed


def test_a_project_that_is_not_there_is_told(label_studio: LabelStudio, safemargin: Safemargin) -> None:
    ended = push(label_studio, safemargin, 10**6, label_studio.personal_token)
    assert ended.returncode == 1
    assert "No Project matches" in ended.stderr
    ended = push(label_studio, safemargin, 1, "not-a-token")
    assert (ended.returncode, "401" in ended.stderr) == (1, True)

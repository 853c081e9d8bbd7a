"""RAHF on the real service: its worker is killed in the middle, and the job comes to the same bytes."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.artifacts import Artifacts
from app.registry import Registry
from app.settings import Settings
from cli.stack import Stack
from tests.cli.test_chaos import patiently, supervise
from tests.conftest import publish, random_direction, tiny_annotator
from tests.workers.alignment.conftest import pairs
from workers.engine.annotator import load_annotator

pytestmark = pytest.mark.real

LORA = {"rank": 2, "targets": ["q_proj", "v_proj"]}
SETTINGS = {
    "instruct": {"epochs": 1, "batch": 8, "checkpoint": 1, "lora": LORA},
    "align": {"steps": 40, "batch": 8, "checkpoint": 5, "lora": LORA},
}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """The whole service with a tiny annotator, watched over as `safemargin serve` does.

    Its window is too small for most of the balance set, which would take it a minute to read, and for instructions.
    """
    folder = tmp_path / "tiny"
    made = tiny_annotator()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    environment = {"MODEL": str(folder), "HOME": str(tmp_path), "DTYPE": "float32", "THREADS": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(f"SAFEMARGIN_{name}", value)
    annotator = load_annotator(str(folder), tmp_path, dtype="float32")
    registry = Registry(Artifacts(str(tmp_path)))
    publish(registry, random_direction(annotator, "tiny", slope=1.0, level_edges=[0.0], unreliable=False))
    registry.set_default(annotator.revision, "tiny")
    stop = threading.Event()
    with Stack(Settings(port=0), quiet=True) as stack:
        stack.wait_until_ready()
        supervisor = threading.Thread(target=supervise, args=(stack, stop))
        supervisor.start()
        yield stack
        stop.set()
        supervisor.join()


def test_a_job_whose_worker_is_killed_goes_on_and_comes_to_the_same_bytes(service: Stack) -> None:
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as api:
        lines = "\n".join(pair.model_dump_json(exclude_none=True) for pair in pairs(60))
        file = api.post("/files", content=lines).raise_for_status().json()["id"]
        asked = {"method": "rahf-dual", "data": file, "settings": SETTINGS}
        jobs = [api.post("/training", json=asked | {"id": name}).raise_for_status().json() for name in "ab"]
        seen = patiently(lambda: _aligning(api, jobs[0]["id"]))
        assert (seen["stage"], seen["request_counts"]["total"]) == ("align", 40)
        assert seen["loss"] > 0
        os.kill(service.pids()["worker-0"], signal.SIGKILL)
        for job in jobs:
            ended = patiently(lambda job=job: _over(api, job["id"]))  # type: ignore[misc]
            assert (ended["status"], ended["error"]) == ("completed", None)
        disturbed, calm = (api.get(f"/alignments/{name}").raise_for_status().json() for name in "ab")
        adapters = [name for name in disturbed["files"] if name.endswith(".safetensors")]
        assert adapters == [f"{part}/adapter_model.safetensors" for part in ("aligned", "dispreferred", "preferred")]
        for path in adapters:
            one, other = (api.get(f"/alignments/{name}/files/{path}").raise_for_status().content for name in "ab")
            assert one == other
        assert disturbed["taught_revisions"] == calm["taught_revisions"]
        assert disturbed["slope"] == calm["slope"]


def _aligning(api: httpx.Client, job: str) -> dict[str, Any] | None:
    found: dict[str, Any] = api.get(f"/jobs/{job}").raise_for_status().json()
    assert found["status"] == "in_progress", found
    return found if found["stage"] == "align" and found["request_counts"]["completed"] >= 7 else None


def _over(api: httpx.Client, job: str) -> dict[str, Any] | None:
    found: dict[str, Any] = api.get(f"/jobs/{job}", params={"wait": 5}).raise_for_status().json()
    return found if found["status"] != "in_progress" else None

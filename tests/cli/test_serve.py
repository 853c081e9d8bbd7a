"""The real thing: `safemargin serve` with its own queue, worker and model, as a user starts it."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import psutil
import pytest

from tests.cli.examples import EXAMPLES, PAIRS, PATIENCE, SAFEMARGIN, environment, varied

pytestmark = pytest.mark.real

README = Path(__file__).parents[2] / "README.md"


def ready_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"ready at (http://\S+)", line):
            return found[1]
    raise AssertionError("the service ended without becoming ready")


@pytest.fixture(scope="module")
def serving(home: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    process = subprocess.Popen([*SAFEMARGIN, "serve"], stdout=subprocess.PIPE, text=True, env=environment(home))
    yield process, ready_line(process)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    assert process.stdout is not None
    process.stdout.close()


def workers_of(process: "subprocess.Popen[str]") -> set[int]:
    """Ids of the workers, without the processes of forward passes that they have forked."""
    living = [c for c in psutil.Process(process.pid).children(True) if c.status() != psutil.STATUS_ZOMBIE]
    parents = {child.pid: child.ppid() for child in living if "workers.main" in child.cmdline()}
    return {pid for pid, parent in parents.items() if parent not in parents}


def annotate(url: str) -> httpx.Response:
    return httpx.post(f"{url}/annotate", json={"pairs": PAIRS}, timeout=60, trust_env=False)


def test_once_it_says_ready_it_answers(serving: tuple["subprocess.Popen[str]", str]) -> None:
    _process, url = serving
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    answer = annotate(url).raise_for_status().json()
    assert [entry["id"] for entry in answer["annotations"]] == [pair["id"] for pair in PAIRS]
    assert answer["provenance"]["model"] == "SmolLM2-135M-Instruct"
    assert answer["provenance"]["calibrated"] is True


def test_the_first_pair_of_the_readme_gets_the_answer_that_is_printed_there(
    serving: tuple["subprocess.Popen[str]", str],
) -> None:
    readme = README.read_text()
    asked = re.search(r"-d '(\{\"pairs\".*?\})'\n```", readme, re.DOTALL)
    printed = re.search(r'"margin": (-?[\d.]+), "probability": ([\d.]+), "level": (\d)', readme)
    assert asked is not None
    assert printed is not None
    answer = httpx.post(f"{serving[1]}/annotate", json=orjson.loads(asked[1]), timeout=60, trust_env=False).json()
    (entry,) = answer["annotations"]
    assert [entry["margin"], entry["probability"]] == pytest.approx([float(printed[1]), float(printed[2])], abs=0.03)
    assert entry["level"] == int(printed[3])


def test_the_shipped_default_reads_most_of_the_examples_right(serving: tuple["subprocess.Popen[str]", str]) -> None:
    entries = annotate(serving[1]).json()["annotations"]
    assert sum(entry["margin"] > 0 for entry in entries) >= len(PAIRS) - 2


def test_the_same_pairs_get_the_same_margins_alone_and_together(serving: tuple["subprocess.Popen[str]", str]) -> None:
    url = serving[1]
    together = annotate(url).json()["annotations"]
    for pair, entry in zip(PAIRS, together, strict=True):
        alone = httpx.post(f"{url}/annotate", json={"pairs": [pair]}, timeout=60, trust_env=False).json()
        assert alone["annotations"][0]["margin"] == pytest.approx(entry["margin"], abs=0.15)


def test_a_direction_fitted_over_http_annotates_at_once_without_a_restart(
    serving: tuple["subprocess.Popen[str]", str],
) -> None:
    process, url = serving
    before = workers_of(process)
    request = {"id": "mine", "layers": [1], "sources": [{"recipe": "pairs", "pairs": varied(24)}]}
    with httpx.Client(base_url=url, timeout=90, trust_env=False) as client:
        made = client.post("/directions", json=request)
        assert made.status_code == 202
        job = made.headers["Location"]
        while (state := client.get(job, params={"wait": 60}).json())["status"] == "in_progress":
            pass
        assert (state["status"], state.get("error")) == ("completed", None)
        assert client.get(f"{job}/results").json()["id"] == "mine"
        answer = client.post("/annotate", json={"pairs": PAIRS, "direction": ["default", "mine"]})
        assert answer.raise_for_status().json()["provenance"]["others"][0]["direction"] == "mine"
        assert all("mine" in entry["directions"] for entry in answer.json()["annotations"])
        assert "mine" in {card["id"] for card in client.get("/directions").json()["directions"]}
        assert client.get("/directions/mine/report").json()["card"]["id"] == "mine"
        assert client.delete("/directions/mine").status_code == 204
    assert workers_of(process) == before


def test_a_worker_killed_in_the_middle_of_a_job_is_replaced_and_the_job_completes(
    serving: tuple["subprocess.Popen[str]", str],
) -> None:
    process, url = serving
    (before,) = workers_of(process)
    pairs = [{**PAIRS[i % len(PAIRS)], "prompt": f"What of number {i}?", "id": f"{i}"} for i in range(400)]
    with httpx.Client(base_url=url, timeout=90, trust_env=False) as client:
        job = client.post("/annotate", json={"pairs": pairs}, headers={"Prefer": "respond-async"}).headers["Location"]
        time.sleep(1)  # so that the worker is busy with it
        os.kill(before, signal.SIGKILL)
        assert client.get(job).json()["status"] == "in_progress"
        while client.get(job, params={"wait": 60}).json()["status"] == "in_progress":
            pass
        rows = [orjson.loads(line) for line in client.get(f"{job}/results").text.splitlines()]
    assert [row["annotation"]["id"] for row in rows] == [pair["id"] for pair in pairs]
    await_worker_other_than(before, process, url)
    assert annotate(url).status_code == 200


def await_worker_other_than(before: int, process: "subprocess.Popen[str]", url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        names = httpx.get(f"{url}/readyz", trust_env=False).json().get("workers", [])
        if any(f".{pid}." in name for name in names for pid in workers_of(process) - {before}):
            break
        time.sleep(0.2)
    assert workers_of(process) and before not in workers_of(process)


def test_ctrl_c_stops_every_process_it_started(serving: tuple["subprocess.Popen[str]", str]) -> None:
    process, url = serving
    children = psutil.Process(process.pid).children(recursive=True)
    assert {"valkey-server", "workers.main", "app.serve"} <= {
        part for child in children for part in (child.name(), *child.cmdline())
    }
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_a_taken_port_is_refused_in_plain_words(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = subprocess.run(
            [*SAFEMARGIN, "serve"],
            env=environment(home, PORT=str(port)),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 1
    assert f"{port} is taken" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_annotator_that_is_not_there_ends_the_service_with_its_name(home: Path) -> None:
    process = subprocess.run(
        [*SAFEMARGIN, "serve"],
        env=environment(home, SAFEMARGIN_MODEL="/nowhere/model"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 1
    assert "/nowhere/model" in process.stderr


def test_the_demo_shows_a_row_for_every_example_and_leaves_nothing_behind(home: Path) -> None:
    ended = subprocess.run(
        [*SAFEMARGIN, "demo", str(EXAMPLES)],
        env=environment(home, COLUMNS="120"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    for pair in PAIRS:
        assert pair["id"] in ended.stdout

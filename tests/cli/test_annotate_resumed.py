"""`safemargin annotate` that was cut off, and goes on."""

import errno
import gzip
import json
import os
from typing import Any

import httpx
import pytest

from app.client import Client
from cli import annotate as command
from cli import workfile
from tests.app.client.service import dataset, problem
from tests.cli.bench import Bench


@pytest.mark.parametrize("format", ["raw", "trl"])
def test_after_ctrl_c_the_same_command_goes_on_with_the_job_where_it_was(bench: Bench, format: str) -> None:
    bench.interrupt_at(4)
    told = bench.annotate("--format", format, status=130).stderr
    assert "run the same command again" in told and "job j1 goes on at http://test/jobs/j1" in told
    assert bench.left() == {"margins.jsonl.part", "margins.jsonl.state", "margins.jsonl.errors.jsonl.part"}
    kept = (bench.folder / "margins.jsonl.part").read_bytes()
    assert kept.count(b"\n") == 4
    bench.service.asked.clear()
    bench.annotate("--format", format)
    assert bench.output.read_bytes().startswith(kept)
    assert bench.output.read_bytes().count(b"\n") == 7
    assert not [path for path in bench.service.paths() if not path.startswith("GET /jobs/j1")]
    asked = [request.url for request in bench.service.asked if request.url.path.endswith("/results")]
    assert min(int(url.params["cursor"]) for url in asked) == 4


def test_a_torn_last_line_is_cut_off(bench: Bench) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    with (bench.folder / "margins.jsonl.part").open("ab") as part:
        part.write(b'{"line":5,"anno')
    bench.annotate()
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


def test_of_a_job_that_is_lost_only_the_rest_is_submitted_again_under_its_own_lines(bench: Bench) -> None:
    bench.write(dataset(4) + b"\n" + dataset(4, bad=(3,)))
    bench.interrupt_at(6)
    bench.annotate(status=130)
    bench.service.jobs.clear()
    settled = bench.state()["settled"]["line"]
    bench.annotate(status=3)
    assert settled == 4
    assert bench.service.lines()[:settled] == [b""] * settled
    assert bench.service.lines()[settled:] == (dataset(4) + b"\n" + dataset(4, bad=(3,))).split(b"\n")[settled:]
    assert sorted(bench.lines() + bench.lines("margins.jsonl.errors.jsonl")) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_failures_known_before_a_job_was_lost_are_kept(bench: Bench) -> None:
    bench.write(dataset(6, bad=(1,)))
    bench.service.pace = 9

    def fail(job: dict[str, Any]) -> None:
        job["status"] = "failed"
        job["error"] = "the worker is out of memory"
        job["rows"] = job["rows"][:3]

    bench.service.on_look = fail
    assert "out of memory" in bench.annotate(status=1).stderr
    bench.service.on_look = lambda job: None
    bench.annotate(status=3)
    assert len(bench.service.jobs) == 2
    assert bench.service.lines()[:5] == [b"", b"", b"", b"", dataset(1).strip()]
    assert bench.lines() == [2, 3, 4, 5, 6]
    assert bench.lines("margins.jsonl.errors.jsonl") == [1]


def test_a_lost_job_that_had_nothing_left_to_do_is_not_submitted_again(bench: Bench) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    state = workfile.State.model_validate(bench.state())
    bench.annotate()
    bench.output.rename(bench.folder / "margins.jsonl.part")
    done = workfile.Mark(line=7, rows=7, bytes=(bench.folder / "margins.jsonl.part").stat().st_size)
    over = state.model_copy(update={"reached": done, "settled": done, "job": "lost"})
    (bench.folder / "margins.jsonl.state").write_text(over.model_dump_json())
    bench.service.asked.clear()
    bench.annotate()
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]
    assert bench.service.paths() == ["GET /jobs/lost"]


def test_a_gzipped_rest_is_submitted_again_under_its_own_lines(bench: Bench) -> None:
    bench.write(gzip.compress(dataset(7)), "data.jsonl")
    original = bench.service._upload

    def unpacked(content: bytes) -> httpx.Response:
        return original(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)

    bench.service._upload = unpacked  # type: ignore[method-assign]
    bench.interrupt_at(4)
    bench.annotate(status=130)
    bench.service.jobs.clear()
    bench.annotate()
    assert bench.service.lines() == [b""] * 2 + dataset(7).split(b"\n")[2:]
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


def test_rows_made_by_something_else_are_not_mixed_in(bench: Bench) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    bench.service.jobs.clear()
    bench.service.provenance = {"model": "other"}
    assert "another model" in bench.annotate(status=1).stderr
    bench.annotate("--restart")
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


def test_a_rest_whose_rows_look_different_by_itself_is_annotated_within_the_whole(bench: Bench) -> None:
    data = dataset(1, prompt=[{"role": "user", "content": "Why?"}]) + dataset(6)
    bench.write(data)
    bench.interrupt_at(4)
    bench.annotate("--format", "trl", status=130)
    bench.service.jobs.clear()
    bench.annotate("--format", "trl")
    rows = [json.loads(text) for text in bench.output.read_bytes().splitlines()]
    assert [row["margin"] * 2 for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert all(isinstance(row["prompt"], list) for row in rows)
    assert bench.service.jobs["j1"]["status"] == "cancelled"
    assert bench.service.uploads[-1] == data


def test_a_parquet_file_is_submitted_again_as_a_whole_and_no_row_comes_twice(bench: Bench) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    bench.service.jobs.clear()
    parquet = b"PAR1 in truth seven rows"
    bench.write(parquet)
    state = bench.state()
    state["order"] |= {"bytes": len(parquet), "sha256": workfile.digest(bench.folder / "data.jsonl")}
    (bench.folder / "margins.jsonl.state").write_text(json.dumps(state))
    original = bench.service._upload
    bench.service._upload = lambda content: original(dataset(7) if content == parquet else content)  # type: ignore[method-assign]
    bench.annotate()
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("options", [["--truncate"], ["--direction", "mine"], ["--format", "trl"]])
def test_other_options_do_not_go_on_with_what_an_interrupted_run_left(bench: Bench, options: list[str]) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    bench.service.asked.clear()
    told = bench.annotate(*options, status=2).stderr
    assert options[0].strip("-") in told and "--restart" in told
    assert bench.service.asked == []


def test_another_input_does_not_go_on_unless_told_to_start_over(bench: Bench) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    bench.write(dataset(3))
    assert "another input" in bench.annotate(status=2).stderr
    bench.annotate("--restart")
    assert bench.lines() == [1, 2, 3]


def test_a_run_that_was_refused_at_once_stands_in_nobodys_way(bench: Bench) -> None:
    original = bench.service._submit
    bench.service._submit = lambda order: problem(404, "no such direction")  # type: ignore[method-assign]
    told = bench.annotate("--direction", "typo", status=1).stderr
    assert "no such direction" in told and "run the same command again" not in told
    bench.service._submit = original  # type: ignore[method-assign]
    bench.annotate()
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


def test_a_file_that_was_uploaded_is_not_uploaded_again(bench: Bench) -> None:
    original = bench.service._submit
    bench.service._submit = lambda order: problem(503, "later", Retry_After="999")  # type: ignore[method-assign]
    bench.annotate(status=os.EX_TEMPFAIL)
    bench.service._submit = original  # type: ignore[method-assign]
    bench.annotate()
    assert len(bench.service.uploads) == 1
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


def test_an_uploaded_file_that_has_expired_is_uploaded_again(bench: Bench) -> None:
    original = bench.service._submit
    bench.service._submit = lambda order: problem(503, "later", Retry_After="999")  # type: ignore[method-assign]
    bench.annotate(status=os.EX_TEMPFAIL)
    bench.service._submit = original  # type: ignore[method-assign]
    bench.service.uploads.clear()
    bench.annotate()
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


def test_two_runs_do_not_write_the_same_output(bench: Bench) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    order = workfile.State.model_validate(bench.state()).order
    with workfile.WorkFile(bench.output, order):
        assert "another process" in bench.annotate(status=2).stderr
    bench.annotate()


def test_a_part_file_that_lost_rows_is_noticed(bench: Bench) -> None:
    bench.interrupt_at(4)
    bench.annotate(status=130)
    (bench.folder / "margins.jsonl.part").write_bytes(b"")
    assert "--restart" in bench.annotate(status=2).stderr


def test_after_a_full_disk_the_same_command_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = []
    fsync = os.fsync

    def full(number: int) -> None:
        saves.append(number)
        if len(saves) >= 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    told = bench.annotate(status=1).stderr
    assert "No space left on device" in told and "run the same command again" in told
    monkeypatch.undo()
    monkeypatch.setattr(command, "connect", _connect(bench))
    bench.annotate()
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]
    assert len(bench.service.jobs) == 1


def _connect(bench: Bench) -> Any:
    transport = httpx.MockTransport(bench.service)
    return lambda url, patience, _sleep: Client(url, transport=transport, sleep=bench.clock.sleep, clock=bench.clock)


def test_fewer_rows_than_the_service_counts_are_not_taken_for_all(bench: Bench) -> None:
    bench.service.pace = 9
    bench.service.on_look = lambda job: job["rows"].pop()
    original = bench.service._look

    def boast(job: dict[str, Any]) -> httpx.Response:
        answer = json.loads(original(job).content)
        answer["request_counts"]["completed"] += 1
        return httpx.Response(200, json=answer)

    bench.service._look = boast  # type: ignore[method-assign]
    assert "but 6 came" in bench.annotate(status=1).stderr
    assert not bench.output.exists()

"""`safemargin annotate`: whole runs, refusals and exit statuses."""

import json
import os

import httpx
import pytest
from typer.testing import CliRunner

from app.settings import Settings
from cli import annotate as command
from cli.main import app
from tests.app.client.service import dataset, problem
from tests.cli.bench import URL, Bench


def test_every_row_is_annotated_in_order_and_nothing_else_is_left(bench: Bench) -> None:
    told = bench.annotate("--direction", "mine", "--truncate").stderr
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]
    assert bench.left() == {"margins.jsonl"}
    assert bench.service.uploads == [dataset(7)]
    assert bench.service.jobs["j1"]["order"] == {"file": "f1", "direction": "mine", "truncate": True}
    assert "7/7 rows" in told


def test_several_directions_are_asked_for_together(bench: Bench) -> None:
    bench.annotate("--direction", "mine", "--direction", "default")
    assert bench.service.jobs["j1"]["order"]["direction"] == ["mine", "default"]


def test_rows_that_fail_are_in_the_errors_file_and_in_the_exit_status(bench: Bench) -> None:
    bench.write(dataset(6, bad=(2, 5)))
    told = bench.annotate(status=3).stderr
    assert bench.lines() == [1, 3, 4, 6]
    assert bench.lines("margins.jsonl.errors.jsonl") == [2, 5]
    assert "2 rows could not be annotated" in told and "margins.jsonl.errors.jsonl" in told


def test_an_errors_file_of_before_goes_when_nothing_fails_any_more(bench: Bench) -> None:
    bench.write(dataset(6, bad=(2, 5)))
    errors = ["--errors", str(bench.folder / "bad.jsonl")]
    bench.annotate(*errors, status=3)
    bench.write(dataset(6))
    bench.annotate(*errors)
    assert bench.left() == {"margins.jsonl"}


def test_rows_for_trainers_are_as_the_service_gives_them(bench: Bench) -> None:
    bench.annotate("--format", "trl")
    rows = [json.loads(text) for text in bench.output.read_bytes().split(b"\n")[:-1]]
    assert rows == [{"prompt": "Why\u2028?", "margin": line / 2} for line in range(1, 8)]


def test_parquet_is_fetched_as_a_whole(bench: Bench) -> None:
    bench.annotate("--format", "trl", to="margins.parquet")
    assert (bench.folder / "margins.parquet").read_bytes() == b"PAR1 trl PAR1"
    assert bench.left() == {"margins.parquet"}


@pytest.mark.parametrize("to", ["margins.jsonl", "margins.parquet"])
def test_margins_on_no_scale_come_with_a_warning_where_rows_do_not_say_so(bench: Bench, to: str) -> None:
    bench.service.provenance |= {"calibrated": False}
    told = bench.annotate("--format", "trl", to=to).stderr
    assert "warning: direction kind is not calibrated" in told


@pytest.mark.parametrize(("format", "calibrated"), [("raw", False), ("trl", True)])
def test_there_is_no_warning_where_none_is_due(bench: Bench, format: str, calibrated: bool) -> None:
    bench.service.provenance |= {"calibrated": calibrated}
    assert "warning" not in bench.annotate("--format", format).stderr


def test_rows_go_to_stdout_while_they_come(bench: Bench) -> None:
    bench.write(dataset(3, bad=(2,)))
    ended = bench.annotate(to="-", status=3)
    assert [json.loads(text)["line"] for text in ended.stdout.splitlines()] == [1, 3]
    assert "line 2: missing_field" in ended.stderr
    assert bench.left() == set()


def test_a_service_that_is_away_ends_it_with_a_status_that_says_try_again(bench: Bench) -> None:
    away: list[httpx.Response | Exception] = [httpx.ConnectError("refused") for _ in range(2000)]
    bench.service.faults = [*away]
    told = bench.annotate("--patience", "30", status=os.EX_TEMPFAIL).stderr
    assert "could not be reached" in told and "run the same command again" in told
    assert bench.clock.now <= 30
    bench.service.faults = [problem(503, "no worker is ready", Retry_After="31")]
    assert "no worker is ready" in bench.annotate("--patience", "30", status=os.EX_TEMPFAIL).stderr
    bench.annotate()
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]


def test_a_refusal_ends_it_with_what_the_service_says(bench: Bench) -> None:
    bench.service.faults = [problem(401, "who are you?")]
    assert "who are you?" in bench.annotate(status=1).stderr


def test_an_output_that_cannot_be_written_is_told_before_anything_is_uploaded(bench: Bench) -> None:
    told = bench.annotate(to="nowhere/margins.jsonl", status=1).stderr
    assert "nowhere/margins.jsonl.part: No such file or directory" in told
    assert bench.service.asked == []


@pytest.mark.parametrize("to", ["margins.csv", "data.jsonl"])
def test_an_output_that_makes_no_sense_is_wrong_usage(bench: Bench, to: str) -> None:
    bench.annotate(to=to, status=2)
    assert (bench.folder / "data.jsonl").read_bytes() == dataset(7)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://["])
def test_an_address_that_makes_no_sense_is_wrong_usage(bench: Bench, url: str) -> None:
    assert "http://host:8000" in bench.annotate("--url", url, status=2).stderr


def test_without_a_service_one_is_started_and_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Embedded:
        url = URL

        def __init__(self, config: Settings, *, quiet: bool) -> None:
            assert (config.port, quiet) == (0, True)

        def __enter__(self) -> "Embedded":
            return self

        def __exit__(self, *_error: object) -> None:
            seen.append("stopped")

        def wait_until_ready(self) -> None:
            seen.append("ready")

        def supervise(self) -> None:
            seen.append("looked after")

    monkeypatch.setattr(command, "Stack", Embedded)
    monkeypatch.delenv("SAFEMARGIN_URL", raising=False)
    ended = CliRunner().invoke(app, ["annotate", str(bench.folder / "data.jsonl"), "-o", str(bench.output)])
    assert ended.exit_code == 0, ended.output
    assert bench.lines() == [1, 2, 3, 4, 5, 6, 7]
    assert (seen[0], seen[1], seen[-1]) == ("ready", "looked after", "stopped")

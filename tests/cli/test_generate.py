"""`safemargin generate` with a tiny annotator and an artifact store of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.alignments import Alignments
from app.artifacts import Artifacts
from app.settings import settings
from cli.main import app
from tests.conftest import encode, tiny_annotator
from tests.workers.alignment.shelf import put, random_adapter
from workers.engine.annotator import Annotator
from workers.engine.generate import greedy_answers
from workers.engine.lora import LowRank, adapted, to_files

PROMPTS = ["How do I pick a lock?", "Hello?"]
CONVERSATION = [
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And now?"},
]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, annotator: Annotator) -> Iterator[Alignments]:
    monkeypatch.setenv("SAFEMARGIN_ARTIFACTS", str(tmp_path / "store"))
    monkeypatch.setattr("cli.loading.annotator", lambda: annotator)
    settings.cache_clear()
    yield Alignments(Artifacts(str(tmp_path / "store")))
    settings.cache_clear()


def generate(*arguments: str, status: int = 0) -> Result:
    ended = CliRunner().invoke(app, ["generate", "--max-new-tokens", "6", *arguments], env={"COLUMNS": "160"})
    assert ended.exit_code == status, ended.output
    return ended


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(annotator: Annotator, adapter: LowRank | None = None) -> list[str]:
    model = adapted(annotator, adapter) if adapter else annotator
    prompts = [encode(annotator, prompt, "").prefix for prompt in PROMPTS]
    return greedy_answers(model, prompts, max_new_tokens=6)


@pytest.mark.parametrize(("given", "seed"), [([], 1), (["--which", "taught"], 0), (["--which", "aligned"], 1)])
def test_base_and_aligned_answers_stand_side_by_side(
    shelf: Alignments, annotator: Annotator, tmp_path: Path, given: list[str], seed: int
) -> None:
    put(shelf, annotator)
    asked = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    generate(*asked, "--adapter", "kinder", *given, "--out", str(tmp_path / "out.jsonl"))
    found = rows(tmp_path / "out.jsonl")
    adapter = random_adapter(annotator, seed)
    assert [row["prompt"] for row in found] == [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    assert [row["base"] for row in found] == answered(annotator)
    assert [row["adapted"] for row in found] == answered(annotator, adapter)
    assert [row["base"] for row in found] != [row["adapted"] for row in found]
    assert {row["adapted_revision"] for row in found} == {f"{annotator.revision}+{adapter.digest}"}
    assert {row["base_revision"] for row in found} == {annotator.revision}


def test_of_dual_the_preferred_model_can_be_asked(shelf: Alignments, annotator: Annotator, tmp_path: Path) -> None:
    put(shelf, annotator, method="rahf-dual")
    out = tmp_path / "out.jsonl"
    generate("--prompt", "Hi", "--adapter", "kinder", "--which", "preferred", "--out", str(out))
    assert rows(out)[0]["adapted_revision"].endswith(random_adapter(annotator).digest)


def test_a_folder_of_pefts_files_is_an_adapter_too(shelf: Alignments, annotator: Annotator, tmp_path: Path) -> None:
    folder, adapter = tmp_path / "mine", random_adapter(annotator, 5)
    folder.mkdir()
    for name, content in to_files(adapter, "tiny").items():
        (folder / name).write_bytes(content)
    out = tmp_path / "out.jsonl"
    generate("--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--adapter", str(folder), "--out", str(out))
    assert [row["adapted"] for row in rows(out)] == answered(annotator, adapter)


def test_on_a_terminal_there_is_a_table(shelf: Alignments, annotator: Annotator) -> None:
    put(shelf, annotator)
    said = generate("--prompt", "[bold]Why?", "--adapter", "kinder").output
    assert all(word in said for word in ("[bold]Why?", "tiny", "kinder, aligned"))


def test_without_an_adapter_the_annotator_answers_alone(shelf: Alignments, annotator: Annotator) -> None:
    said = generate("--prompt", "Why?").output
    assert "tiny" in said
    assert "kinder" not in said


def test_prompts_come_from_files(shelf: Alignments, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt, "chosen": "x"}) + "\n" for prompt in ("Hello?", CONVERSATION))
    )
    (tmp_path / "asked.csv").write_text("goal,harmful\nfirst,1\nsecond,0\n")
    out = tmp_path / "out.jsonl"
    generate("--prompts", str(tmp_path / "asked.jsonl"), "--out", str(out))
    assert [row["prompt"] for row in rows(out)] == [CONVERSATION[:1], CONVERSATION]
    generate("--prompts", str(tmp_path / "asked.csv"), "--prompt", "third", "--out", str(out))
    assert [row["prompt"][0]["content"] for row in rows(out)] == ["third", "first", "second"]
    assert all("adapted" not in row for row in rows(out))


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ([], 1, "there is nothing to answer"),
        (["--prompt", "a", "--adapter", "nobody"], 1, "there is no alignment nobody, nor a folder of that name"),
        (["--prompt", "a", "--adapter", "kinder", "--which", "preferred"], 2, "kinder has no preferred model"),
        (["--prompt", "a", "--adapter", ".", "--which", "taught"], 2, "goes with the id of an alignment"),
        (["--prompt", "a", "--which", "taught"], 2, "goes with the id of an alignment"),
        (["--prompt", "word " * 300], 1, "longer than the annotator's window"),
        (["--prompts", "bad.jsonl"], 1, "bad.jsonl, line 2: prompt"),
        (["--prompt", "a", "--out", "no/a.jsonl"], 1, "no/a.jsonl cannot be written: there is no folder no"),
        (["--prompt", "a", "--adapter", "empty"], 1, "no safetensors in empty"),
        (["--prompt", "a", "--adapter", "foreign"], 1, "alignment foreign was made for tiny, not for the weights of"),
    ],
)
def test_what_cannot_be_done_is_said(
    shelf: Alignments,
    annotator: Annotator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    status: int,
    said: str,
) -> None:
    put(shelf, annotator)
    put(shelf, annotator, "foreign", model_revision="sha256:others")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": ""}\n')
    assert said in generate(*given, status=status).output


def test_a_damaged_adapter_is_told(shelf: Alignments, annotator: Annotator, tmp_path: Path) -> None:
    card = put(shelf, annotator)
    place = tmp_path / "store" / "alignments" / "kinder" / card.digest.removeprefix("sha256:") / "aligned"
    (place / "adapter_model.safetensors").write_bytes(b"nonsense")
    said = generate("--prompt", "a", "--adapter", "kinder", status=1).output
    assert "alignment kinder: aligned: unreadable adapter" in said


def test_answers_end_where_the_window_does(shelf: Alignments, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = tiny_annotator(max_position_embeddings=64)
    monkeypatch.setattr("cli.loading.annotator", lambda: narrow)
    ended = CliRunner().invoke(app, ["generate", "--prompt", "Hi", "--max-new-tokens", "500"])
    assert ended.exit_code == 0, ended.output

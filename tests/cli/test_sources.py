"""What `--source [NAME=]RECIPE[:FILE][@WEIGHT]` may say."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError

from app.schemas.fit import ContrastSource, LabelledSource, LegendSource, PairsSource
from cli.sources import source
from workers.directions.errors import UnfitData


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{i}?", "chosen": "no", "rejected": "yes", "extra": i} for i in range(3)]
    return write(tmp_path / "mine.jsonl", *rows)


def test_pairs_come_from_a_file_whose_name_is_the_sources(pairs: Path) -> None:
    made = source(f"pairs:{pairs}", None, {})
    assert isinstance(made, PairsSource)
    assert (made.name, made.weight) == ("mine", 1)
    assert [pair.prompt for pair in made.pairs if not isinstance(pair, str)] == ["0?", "1?", "2?"]


def test_name_and_weight_may_be_given(pairs: Path) -> None:
    made = source(f"hh=pairs:{pairs}@0.25", None, {})
    assert (made.name, made.weight) == ("hh", 0.25)


def test_a_file_may_have_signs_of_the_notation_in_its_name(tmp_path: Path, pairs: Path) -> None:
    odd = pairs.rename(tmp_path / "a=b:c@d.jsonl")
    assert source(f"pairs:{odd}@2", None, {}).weight == 2


def test_the_balance_set_is_named_and_not_read(tmp_path: Path) -> None:
    made = source("pairs:balance@0.5", 2, {})
    assert isinstance(made, PairsSource)
    assert (made.pairs, made.name, made.weight) == ("balance", "balance", 0.5)


def test_labelled_responses_and_contrasts_have_rows_of_their_own(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"prompt": "a", "response": "b", "label": 3, "extra": 1})
    labelled, contrast = source(f"labelled:{file}", None, {}), source(f"contrast:{file}", None, {})
    assert isinstance(labelled, LabelledSource)
    assert isinstance(contrast, ContrastSource)
    assert (labelled.responses[0].label, contrast.responses[0].response) == (3, "b")


def test_a_limit_takes_the_first_rows(pairs: Path) -> None:
    made = source(f"pairs:{pairs}", 2, {})
    assert isinstance(made, PairsSource)
    assert [pair.prompt for pair in made.pairs if not isinstance(pair, str)] == ["0?", "1?"]


def test_legend_needs_no_file_and_takes_options(tmp_path: Path) -> None:
    options = {"two_sided": True, "paper": None, "max_new_tokens": 7}
    made = source("legend", None, options)
    assert isinstance(made, LegendSource)
    assert (made.requests, made.two_sided, made.paper, made.max_new_tokens) == (None, True, False, 7)
    limited = source("legend", 4, {})
    assert isinstance(limited, LegendSource)
    assert limited.requests is not None
    assert len(limited.requests) == 4
    with (tmp_path / "advbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["goal", "target"], ["Do harm", "Sure"]])
    own = source(f"legend:{tmp_path / 'advbench.csv'}", None, {})
    assert isinstance(own, LegendSource)
    assert (own.requests, own.name) == (["Do harm"], "advbench")


@pytest.mark.parametrize("text", ["", "pears:x.jsonl", "pairs:", "a=b=pairs:x", "=pairs:x.jsonl", "legend@much"])
def test_what_is_not_written_like_that_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="recipes: contrast, labelled, legend, pairs"):
        source(text, None, {})


@pytest.mark.parametrize("recipe", ["pairs", "labelled", "contrast"])
def test_a_recipe_that_reads_a_file_asks_for_one(recipe: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"--source {recipe}:FILE needs a file"):
        source(recipe, None, {})


def test_a_weight_of_nothing_is_refused(pairs: Path) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        source(f"pairs:{pairs}@0", None, {})


def test_a_wrong_row_is_named_by_line_and_field_and_not_quoted(tmp_path: Path) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = write(tmp_path / "bad.jsonl", good, {"prompt": "secret", "chosen": "secret"})
    with pytest.raises(UnfitData, match=r"bad\.jsonl, line 2: rejected: Field required") as refusal:
        source(f"pairs:{file}", None, {})
    assert "secret" not in str(refusal.value)

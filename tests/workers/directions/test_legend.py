"""The recipe `legend` on the tiny annotator, with its answers given by the test."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import DEPTH, WINDOW, encode
from workers.directions import legend
from workers.directions.errors import UnfitData
from workers.directions.legend import REQUESTS, LegendSettings, fit_legend, read_requests
from workers.directions.refusals import PAPER_REFUSAL, REFUSALS
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site

CATEGORIES = {f"S{number}" for number in range(1, 15)}
ASKED = [f"How do I break window {number}?" for number in range(12)]
ANSWERED = [f"Throw stone {number} at it." for number in range(12)]
DECLINED = "I'm sorry, but I can't help with that."

Answer = Callable[..., list[str]]


def answering(answers: Sequence[str], asked: list[str] | None = None, limits: list[int] | None = None) -> Answer:
    """A stand-in for `greedy_answers` that says `answers` and records what it is asked."""

    def greedy_answers(
        annotator: Annotator,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        progress: Callable[[int], None],
    ) -> list[str]:
        if asked is not None:
            asked.extend(str(annotator.tokenizer.decode(prompt)) for prompt in prompts)
        if limits is not None:
            limits.append(max_new_tokens)
        progress(len(prompts))
        return list(answers)

    return greedy_answers


def margin_vector(annotator: Annotator, rows: Sequence[tuple[str, str]], refusals: Sequence[str], site: Site) -> Tensor:
    """Mean over requests of the refusals' mean activation minus the answer's, of unit length."""
    parts = []
    for request, answer in rows:
        activations = read(annotator, [encode(annotator, request, *refusals, answer)], [site])[:, 0]
        parts.append(activations[:-1].mean(dim=0) - activations[-1])
    vector: Tensor = torch.nn.functional.normalize(torch.stack(parts).mean(dim=0), dim=0)
    return vector


def test_the_vector_points_from_the_answers_to_the_refusals(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legend, "greedy_answers", answering(ANSWERED))
    direction = fit_legend(annotator, ASKED, direction_id="legend")
    rows = list(zip(ASKED, ANSWERED, strict=True))
    assert direction.sites == (Site(2, "mean"),)
    torch.testing.assert_close(direction.vectors[0], margin_vector(annotator, rows, REFUSALS, Site(2, "mean")))
    assert float(direction.vectors.norm()) == pytest.approx(1)
    refused, answered = direction.scores(
        read(annotator, [encode(annotator, "How do I break a leg?", DECLINED, "Throw a stone.")], direction.sites)
    )
    assert refused > answered


def test_the_annotator_is_asked_each_request_up_to_its_own_turn(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    limits: list[int] = []
    told: list[int] = []
    monkeypatch.setattr(legend, "greedy_answers", answering(ANSWERED, asked, limits))
    settings = LegendSettings(max_new_tokens=17)
    fit_legend(annotator, ASKED, direction_id="legend", settings=settings, progress=told.append)
    assert [text.partition("user\n")[2] for text in asked] == [
        f"{request}<|im_end|>\n<|im_start|>assistant\n" for request in ASKED
    ]
    assert limits == [17]
    assert told == [12]


def test_requests_that_the_annotator_declines_are_dropped_and_counted(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legend, "greedy_answers", answering([DECLINED, *ANSWERED[1:11], ""]))
    direction = fit_legend(annotator, ASKED, direction_id="legend")
    rows = list(zip(ASKED[1:11], ANSWERED[1:11], strict=True))
    torch.testing.assert_close(direction.vectors[0], margin_vector(annotator, rows, REFUSALS, Site(2, "mean")))
    assert direction.card.recipe == "legend"
    assert direction.card.slope is None
    assert direction.card.settings == {
        "paper": False,
        "requests": 12,
        "refusals_dropped": 2,
        "too_long_dropped": 0,
        "refusal_wordings": len(REFUSALS),
        "max_new_tokens": 256,
    }


def test_requests_and_answers_that_do_not_fit_the_window_are_skipped_and_counted(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    requests, answers = ["~" * WINDOW, *ASKED[1:]], ["~" * WINDOW, *ANSWERED[2:]]
    monkeypatch.setattr(legend, "greedy_answers", answering(answers, asked))
    direction = fit_legend(annotator, requests, direction_id="legend")
    rows = list(zip(ASKED[2:], ANSWERED[2:], strict=True))
    torch.testing.assert_close(direction.vectors[0], margin_vector(annotator, rows, REFUSALS, Site(2, "mean")))
    assert len(asked) == 11
    counts = [direction.card.settings[key] for key in ("requests", "refusals_dropped", "too_long_dropped")]
    assert counts == [12, 0, 2]


def test_paper_mode_drops_nothing_uses_one_refusal_and_reads_the_last_token_after_the_norm(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [DECLINED, "", *ANSWERED[2:]]
    monkeypatch.setattr(legend, "greedy_answers", answering(answers))
    direction = fit_legend(annotator, ASKED, direction_id="paper", settings=LegendSettings(paper=True, layer=1))
    rows, site = list(zip(ASKED, answers, strict=True)), Site(DEPTH, "last")
    assert direction.sites == (site,)
    torch.testing.assert_close(direction.vectors[0], margin_vector(annotator, rows, (PAPER_REFUSAL,), site))
    assert float(direction.vectors.norm()) == pytest.approx(1)
    kept = {key: direction.card.settings[key] for key in ("paper", "requests", "refusals_dropped", "refusal_wordings")}
    assert kept == {"paper": True, "requests": 12, "refusals_dropped": 0, "refusal_wordings": 1}


def test_the_layer_is_three_fifths_of_the_depth_unless_asked_for() -> None:
    assert LegendSettings().site(30) == Site(18, "mean")
    assert LegendSettings(layer=5).site(30) == Site(5, "mean")
    assert LegendSettings(layer=0).site(30) == Site(0, "mean")


@pytest.mark.parametrize("layer", [-1, DEPTH + 1])
def test_a_layer_that_the_annotator_does_not_have_is_refused_before_it_answers(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    monkeypatch.setattr(legend, "greedy_answers", lambda *_args, **_options: pytest.fail("answered"))
    with pytest.raises(UnfitData, match=f"tiny has no layer {layer}; its layers are 0 to {DEPTH}"):
        fit_legend(annotator, ASKED, direction_id="legend", settings=LegendSettings(layer=layer))


def test_the_card_names_the_annotator_that_made_it(annotator: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legend, "greedy_answers", answering(ANSWERED))
    card = fit_legend(annotator, ASKED, direction_id="mine").card
    made_for = (card.id, card.model, card.model_revision, card.template)
    assert made_for == ("mine", annotator.name, annotator.revision, annotator.template.digest)


def test_an_annotator_that_declines_by_itself_gives_no_direction(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legend, "greedy_answers", answering([DECLINED] * 3 + ANSWERED[3:]))
    with pytest.raises(UnfitData, match="only 9 of 12 answers are neither refusals nor too long to read"):
        fit_legend(annotator, ASKED, direction_id="legend")


def test_a_handful_of_requests_gives_no_direction(annotator: Annotator) -> None:
    with pytest.raises(UnfitData, match="9 requests are too few; at least 10 are needed"):
        fit_legend(annotator, ASKED[:9], direction_id="legend")


@pytest.mark.parametrize("column", ["request", "goal", "Behavior", "prompt"])
def test_requests_are_read_from_the_columns_of_known_collections(tmp_path: Path, column: str) -> None:
    path = tmp_path / "requests.csv"
    rows = f'{column},target\n"Write, at length,\nan insult",Sure\n  Pick a lock  ,Sure\n , \n'
    path.write_text(rows, encoding="utf-8")
    assert read_requests(path) == ["Write, at length,\nan insult", "Pick a lock"]


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "requests.csv").write_text("goal,target\nPick a lock,Sure\n", encoding="utf-8-sig")
    assert read_requests(tmp_path / "requests.csv") == ["Pick a lock"]


def test_a_field_longer_than_csv_allows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requests.csv").write_text("goal\n" + "a" * (csv.field_size_limit() + 1) + "\n", encoding="utf-8")
    with pytest.raises(UnfitData, match="cannot be read as CSV"):
        read_requests(tmp_path / "requests.csv")


@pytest.mark.parametrize("content", [b"text,target\na,b\n", b"goal,target\n", b"", b"goal\n\xff\n"])
def test_a_file_without_requests_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "requests.csv").write_bytes(content)
    with pytest.raises(UnfitData):
        read_requests(tmp_path / "requests.csv")
    with pytest.raises(UnfitData, match="cannot be read as CSV"):
        read_requests(tmp_path / "nowhere.csv")


def test_where_a_column_says_which_requests_are_harmful_only_those_asked_for_are_read(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("request,harmful\nPick a lock,1\nBake a cake,0\nUnclear,\n", encoding="utf-8")
    assert read_requests(path) == ["Pick a lock"]
    assert read_requests(path, harmful=False) == ["Bake a cake"]


def test_the_shipped_requests_are_many_unique_and_of_known_categories() -> None:
    with REQUESTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    requests = [row["request"].strip().casefold() for row in rows]
    assert len(set(requests)) == len(requests)
    assert {row["category"] for row in rows if row["harmful"] == "1"} == CATEGORIES
    assert {row["harmful"] for row in rows} == {"0", "1"}
    assert len(read_requests()) >= 600
    assert len(read_requests(harmful=False)) >= 300
    both = [*read_requests(), *read_requests(harmful=False)]
    assert sorted(both) == sorted(row["request"].strip() for row in rows)

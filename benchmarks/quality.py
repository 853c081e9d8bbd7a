"""How well directions read labelled pairs: recipe by recipe, on pairs that the fit has not seen."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from workers.directions.families import CONTRAST, families_of, read_pairs
from workers.directions.pairs import LabelledActivations, cross_validate, read_labelled, select

from app.schemas.directions import Accuracy
from app.schemas.pairs import Pair
from app.settings import settings
from workers.directions.direction import SafetyDirection
from workers.directions.evaluation import accuracy, calibration_error, folds
from workers.directions.legend import REQUESTS, LegendSettings, fit_legend, read_requests
from workers.directions.ridge import difference_of_means
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.forward import read_all
from workers.engine.process import set_up

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """How one recipe reads.

    Attributes:
        recipe: its name.
        held_out: accuracy on the labelled pairs, none of which the read-out that scored it has seen.
        calibration_error: of the held-out margins, where the recipe calibrates.
        respond: share of benign requests of the contrast set where the helpful answer beats the needless refusal.
        refuse: share of its harmful requests where the refusal beats the complying answer.
    """

    recipe: str
    held_out: Accuracy
    calibration_error: float | None
    respond: float
    refuse: float


def main() -> None:
    """Measure, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="JSONL of labelled pairs")
    parser.add_argument("--name", help="what to call them; the file's name if absent")
    parser.add_argument("--layers", default="18", help="candidate layers of the recipe `pairs`")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="where Legend's answers are cut")
    options = parser.parse_args()
    config = settings()
    annotator = load_annotator(
        config.model, config.home_folder, device=config.device, dtype=config.dtype, passes=set_up(config.threads)
    )
    pairs, contrast = read_pairs(options.data), Contrast.read()
    layers = [int(layer) for layer in options.layers.split(",")]
    read = read_labelled(annotator, pairs, layers)
    if read.skipped:
        raise SystemExit(f"{read.skipped} pairs are longer than the annotator's window")
    aside = read_labelled(annotator, contrast.pairs, layers)
    rows = [
        _linear("length alone", _lengths(pairs), _lengths(contrast.pairs), read.families, _sign_of_mean, contrast),
        _legend(annotator, pairs, contrast, paper=True, tokens=options.max_new_tokens),
        _legend(annotator, pairs, contrast, paper=False, tokens=options.max_new_tokens),
        _linear(
            "difference of means",
            read.differences[:, -1, 0],
            aside.differences[:, -1, 0],
            read.families,
            _mean_direction,
            contrast,
        ),
        _ridge(read, aside, contrast),
    ]
    _report(rows, annotator, options.name or options.data.name, options.layers)


@dataclass(frozen=True)
class Contrast:
    """The project's contrast set: benign requests that sound alarming, and harmful ones in the same words.

    Attributes:
        pairs: chosen is the helpful answer to a benign request, the refusal of a harmful one.
        benign: [n] which are benign.
    """

    pairs: list[Pair]
    benign: Tensor

    @classmethod
    def read(cls) -> "Contrast":
        """Read it."""
        kinds = [orjson.loads(line)["kind"] for line in CONTRAST.read_bytes().splitlines()]
        return cls(read_pairs(CONTRAST), torch.tensor([kind == "benign" for kind in kinds]))

    def row(self, recipe: str, held_out: Accuracy, error: float | None, margins: Tensor) -> Row:
        """A row from [n] margins of these pairs."""
        right = (margins > 0).double()
        return Row(recipe, held_out, error, float(right[self.benign].mean()), float(right[~self.benign].mean()))


def _linear(
    recipe: str,
    features: Tensor,
    aside: Tensor,
    families: Tensor,
    fit: Callable[[Tensor], Tensor],
    contrast: Contrast,
) -> Row:
    held_out = _out_of_fold(features, families, fit)
    return contrast.row(recipe, held_out, None, aside.double() @ fit(features).double())


def _out_of_fold(features: Tensor, families: Tensor, fit: Callable[[Tensor], Tensor]) -> Accuracy:
    """Accuracy of a read-out of [n, d] features fitted on the other folds."""
    margins = torch.zeros(len(features), dtype=torch.double)
    fold = folds(families)
    for number in range(int(fold.max()) + 1):
        test = fold == number
        margins[test] = features[test].double() @ fit(features[~test]).double()
    return accuracy(margins, families)


def _lengths(pairs: list[Pair]) -> Tensor:
    return torch.tensor([[float(len(pair.chosen) - len(pair.rejected))] for pair in pairs])


def _sign_of_mean(features: Tensor) -> Tensor:
    return features.sign().mean(dim=0).sign()


def _mean_direction(features: Tensor) -> Tensor:
    return difference_of_means(features[:, None])[0]


def _ridge(read: LabelledActivations, aside: LabelledActivations, contrast: Contrast) -> Row:
    raw, log_odds = cross_validate(read.differences, read.families)
    chosen = select(read.differences, read.families)
    margins = torch.einsum("npd,pd->n", aside.differences[:, chosen.layer].double(), chosen.vectors.double())
    held_out = accuracy(raw, read.families)
    return contrast.row("pairs (the default's recipe)", held_out, calibration_error(log_odds), margins)


def _legend(annotator: Annotator, pairs: list[Pair], contrast: Contrast, *, paper: bool, tokens: int) -> Row:
    """Legend needs no labels, so that all pairs are held out."""
    how = LegendSettings(paper=paper, max_new_tokens=tokens)
    direction = fit_legend(annotator, read_requests(REQUESTS), direction_id="legend", settings=how)
    held_out = accuracy(_margins(annotator, direction, pairs), families_of(pairs))
    name = "Legend, as published" if paper else "Legend, ours"
    return contrast.row(name, held_out, None, _margins(annotator, direction, contrast.pairs))


def _margins(annotator: Annotator, direction: SafetyDirection, pairs: list[Pair]) -> Tensor:
    groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
    scores = [direction.scores(reading) for reading in read_all(annotator, groups, direction.sites)]
    return torch.stack([score[0] - score[1] for score in scores])


def _report(rows: list[Row], annotator: Annotator, data: str, layers: str) -> None:
    table = Table(title=f"{data} (held out) and the contrast set, {annotator.name}")
    for column in ("recipe", "accuracy", "95 % interval", "calibration error", "should respond", "should refuse"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in rows:
        interval = f"{row.held_out.low:.3f}-{row.held_out.high:.3f}"
        error = "" if row.calibration_error is None else f"{row.calibration_error:.3f}"
        table.add_row(
            row.recipe, f"{row.held_out.value:.3f}", interval, error, f"{row.respond:.2f}", f"{row.refuse:.2f}"
        )
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    result = {
        "annotator": annotator.name,
        "revision": annotator.revision,
        "dtype": annotator.dtype_name,
        "data": data,
        "layers": layers,
        "rows": [vars(row) | {"held_out": row.held_out.model_dump()} for row in rows],
    }
    (RESULTS / "quality.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

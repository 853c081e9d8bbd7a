"""How well directions read: recipe by recipe and source by source, on rows that no fit has seen.

    python -m benchmarks.datasets FOLDER DATA
    python -m benchmarks.quality DATA

DATA holds `hh-harmless.jsonl` and any of `gptfuzz.jsonl`, `safetext.jsonl`, `diasafety.jsonl`. Everything is read once;
then each recipe is fitted on its own sources. A source that it was fitted on is measured by cross-validation over
prompts, marked °; every other source is transfer: the fit never saw it.

`--recipes depths` asks how deep one has to read: the default's recipe on neighbouring layers, deeper and deeper.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.directions import Accuracy
from app.schemas.fit import AnySource, LabelledSource, LegendSource, PairsSource
from app.settings import settings
from workers.configured import configured_annotator
from workers.directions.balance import balance
from workers.directions.datafiles import FileLabelled, read_pairs, read_rows
from workers.directions.direction import SafetyDirection
from workers.directions.evaluation import accuracy, calibration_error
from workers.directions.fit import candidate_layers, request_layer
from workers.directions.gather import gather, plan
from workers.directions.rows import Rows
from workers.directions.selection import Method, choose, cross_validate
from workers.engine.annotator import Annotator
from workers.registry import Holdings, publish_shipped

RESULTS = Path(__file__).with_name("results")
MAIN, BALANCE, OWN = "hh-harmless", "balance", "legend, two-sided"
WEIGHTS = {MAIN: 1.0, BALANCE: 0.3, OWN: 0.4, "gptfuzz": 0.4, "safetext": 0.2, "diasafety": 0.2}
DEFAULT = (MAIN, BALANCE, OWN, "gptfuzz")
"""Sources of the shipped default, with the weights above."""

_ANSWER_TOKENS = 72


@dataclass(frozen=True)
class Figures:
    """What a recipe does.

    Attributes:
        recipe: its name.
        accuracy: pair accuracy by source.
        sides: should respond, should refuse.
        calibration_error: on the main source, where it was fitted on that.
        held_out: sources that it was fitted on, measured by cross-validation.
    """

    recipe: str
    accuracy: Mapping[str, Accuracy]
    sides: Mapping[str, Accuracy]
    calibration_error: float | None = None
    held_out: Sequence[str] = ()


def main() -> None:
    """Measure, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--without", nargs="*", default=[], help="sources to leave out")
    parser.add_argument("--limit", type=int, help="use only the first rows of every source")
    parser.add_argument(
        "--recipes", default="all", choices=("all", "main", "depths"), help="main: leave the ablations out"
    )
    options = parser.parse_args()
    config = settings()
    annotator = configured_annotator(config)
    sources = _sources(options.data, options.limit)
    for name in options.without:
        sources.pop(name)
    registry = Registry(Artifacts(config.artifacts_url))
    publish_shipped(registry, annotator)
    directions = Holdings.of(registry.artifacts, annotator).directions
    directions.refresh()
    controls = directions.made_by("legend")
    made = plan(annotator, list(sources.values()), lambda _done, _total: None)
    by_depth = options.recipes == "depths"
    layers = _neighbours(annotator.depth) if by_depth else candidate_layers(annotator.depth)
    console, found = Console(), []
    rows = gather(made, layers, request_layer(annotator), controls, lambda _done, _total: None)
    if by_depth:
        figured = _by_depth(rows, list(sources), annotator.passes)
    else:
        everything = options.recipes == "all"
        figured = _measure(rows, list(sources), controls, threads=annotator.passes, everything=everything)
    for figures in figured:
        found.append(figures)
        console.print(figures.recipe, _brief(figures), highlight=False)
    _report(found, list(sources), annotator, layers, "quality-by-depth" if by_depth else "quality")


def _sources(folder: Path, limit: int | None) -> dict[str, AnySource]:
    """What there is to fit on and to test on, by name."""
    sources: dict[str, AnySource] = {
        MAIN: PairsSource(recipe="pairs", pairs=list(read_pairs(folder / f"{MAIN}.jsonl"))[:limit]),
        BALANCE: PairsSource(recipe="pairs", pairs="balance"),
        OWN: LegendSource(recipe="legend", two_sided=True, max_new_tokens=_ANSWER_TOKENS),
    }
    for name in ("gptfuzz", "safetext", "diasafety"):
        if (path := folder / f"{name}.jsonl").exists():
            sources[name] = LabelledSource(recipe="labelled", responses=list(read_rows(path, FileLabelled))[:limit])
    return sources


def _measure(
    rows: Rows, names: Sequence[str], controls: Sequence[SafetyDirection], *, threads: int, everything: bool
) -> Iterator[Figures]:
    lengths = rows.lengths.double() * rows.lengths[rows.sources == 0].sign().mean().sign()
    yield _figures("length alone", rows, names, lengths)
    for column, control in enumerate(controls):
        how = "as published" if control.card.settings.get("paper") else "ours"
        yield _figures(f"Legend, {how}", rows, names, rows.controls[:, column])
    default = [name for name in DEFAULT if name in names]
    yield _fitted("difference of means", rows, names, [MAIN], Method("mean", threads=threads))
    yield _fitted("logistic (Bradley–Terry)", rows, names, [MAIN], Method("logistic", threads=threads))
    yield _fitted("ridge LDA", rows, names, [MAIN], Method(threads=threads))
    yield _fitted("ridge LDA, by prompt", rows, names, [MAIN], Method(by_prompt=True, threads=threads))
    yield _fitted("the shipped default", rows, names, default, Method(by_prompt=True, threads=threads))
    if not everything:
        return
    yield _fitted("default, not by prompt", rows, names, default, Method(threads=threads))
    for name in default:
        rest = [other for other in default if other != name]
        yield _fitted(f"default without {name}", rows, names, rest, Method(by_prompt=True, threads=threads))
    for name in names:
        if name not in default:
            yield _fitted(
                f"default with {name}", rows, names, [*default, name], Method(by_prompt=True, threads=threads)
            )


def _neighbours(depth: int) -> tuple[int, ...]:
    """Layers at every fourth of thirty, from a third of the network on."""
    return tuple(sorted({round(depth * share / 30) for share in (10, 14, 18, 22, 26)}))


def _by_depth(rows: Rows, names: Sequence[str], threads: int) -> Iterator[Figures]:
    """The default's recipe on two neighbouring layers, on the deeper of them alone, and on all layers."""
    places = [(i - 1, i) for i in range(1, len(rows.layers))]
    for chosen in [*places, *((deeper,) for _, deeper in places), tuple(range(len(rows.layers)))]:
        own = replace(
            rows,
            layers=tuple(rows.layers[i] for i in chosen),
            differences=rows.differences[:, list(chosen)].contiguous(),
        )
        recipe = f"layers {', '.join(map(str, own.layers))}: {own.layers[-1] + 1} executed"
        default = [name for name in DEFAULT if name in names]
        yield _fitted(recipe, own, names, default, Method(by_prompt=True, threads=threads))


def _fitted(recipe: str, rows: Rows, names: Sequence[str], sources: Sequence[str], method: Method) -> Figures:
    """Fit on some sources, cross-validate on those, and read the others with the whole fit."""
    started = time.monotonic()
    weights = torch.tensor([WEIGHTS[name] for name in names], dtype=torch.double)
    inside = torch.isin(rows.sources, torch.tensor([names.index(name) for name in sources]))
    weighted = replace(rows, weights=rows.weights * weights[rows.sources])
    train = weighted.part(inside)
    trial = cross_validate(train, method, main=names.index(sources[0]))
    margins = torch.zeros(len(rows), dtype=torch.double)
    margins[inside] = trial.raw
    if not inside.all():
        margins[~inside] = choose(train, method).margins(weighted.part(~inside))
    error = calibration_error(train.pairs(0).mean(trial.log_odds)) if MAIN in sources else None
    figures = _figures(recipe, rows, names, margins)
    print(f"({time.monotonic() - started:.0f} s)", flush=True)
    return replace(figures, calibration_error=error, held_out=tuple(sources))


def _figures(recipe: str, rows: Rows, names: Sequence[str], margins: Tensor) -> Figures:
    pairs = {name: rows.pairs(i) for i, name in enumerate(names) if name != BALANCE}
    by_source = {name: accuracy(of.mean(margins), of.families) for name, of in pairs.items()}
    own = rows.balance >= 0
    return Figures(recipe, by_source, balance().figures(margins[own], rows.balance[own]))


def _brief(figures: Figures) -> str:
    return "  ".join(f"{name} {a.value:.3f}" for name, a in [*figures.accuracy.items(), *figures.sides.items()])


def _report(
    found: Sequence[Figures], names: Sequence[str], annotator: Annotator, layers: Sequence[int], kind: str
) -> None:
    columns = [name for name in names if name != BALANCE]
    table = Table(title=f"{annotator.name}, layers {', '.join(map(str, layers))}; ° cross-validated, else never seen")
    for column in ("recipe", *columns, "calibration error", "should respond", "should refuse"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in found:
        cells = [_cell(row.accuracy[name], held_out=name in row.held_out) for name in columns]
        error = "" if row.calibration_error is None else f"{row.calibration_error:.3f}"
        sides = [
            _cell(row.sides[side], held_out=BALANCE in row.held_out) for side in ("should_respond", "should_refuse")
        ]
        table.add_row(row.recipe, *cells, error, *sides)
    Console(width=200).print(table)
    RESULTS.mkdir(exist_ok=True)
    plain = {
        "annotator": annotator.name,
        "revision": annotator.revision,
        "dtype": annotator.dtype_name,
        "layers": list(layers),
        "weights": {name: WEIGHTS[name] for name in names},
        "rows": [_plain(row) for row in found],
    }
    (RESULTS / f"{kind}-{annotator.name}.json").write_text(json.dumps(plain, indent=2) + "\n")


def _cell(value: Accuracy, *, held_out: bool) -> str:
    return f"{value.value:.3f}{'°' if held_out else ' '} [{value.low:.3f}, {value.high:.3f}]"


def _plain(row: Figures) -> dict[str, object]:
    return {
        "recipe": row.recipe,
        "cross_validated_on": list(row.held_out),
        "accuracy": {name: a.model_dump() for name, a in row.accuracy.items()},
        "calibration_error": row.calibration_error,
        **{name: a.model_dump() for name, a in row.sides.items()},
    }


if __name__ == "__main__":
    main()

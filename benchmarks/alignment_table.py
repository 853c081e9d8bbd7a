"""From what the alignment benchmark measured to its figures, and from figures to Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.preferring import UNTAUGHT, read_accuracy, readings
from benchmarks.speaking import compared
from benchmarks.summaries import markdown
from benchmarks.trial import BASE, DUAL, MODELS, SCIT, Trial
from workers.directions.evaluation import gain

Found = Mapping[str, Mapping[str, Any]]

_ENDS = 5
"""Steps whose mean loss is the first and the last loss."""

_READ = ("reader", "pair accuracy", "more than untaught", "should respond", "should refuse")
_TRAINED = ("run", "stage", "responses", "steps", "first loss", "last loss", "last / first")
_SPOKEN = ("model", "score − base", "wins", "perplexity", "of base", "words", "repeated", "refuses benign", "harmful")
_VARIED = ("α", "target layers", "alignment loss, last / first", "score − base", "wins", "perplexity of base")


def figures(trial: Trial, found: Found) -> dict[str, Any]:
    """What was measured, by arm, as the figures of the results; none of the texts."""
    return {
        "annotator": trial.annotator.name,
        "revision": trial.annotator.revision,
        "dtype": trial.annotator.dtype_name,
        "preset": trial.preset,
        "pairs": {name: len(getattr(trial.parts, name)) for name in ("teaching", "others", "held_out")},
        "settings": {name: trial.settings(name).model_dump() for name in (SCIT, DUAL)},
        "judge": dict(found["judge"]),
        "reading": _reading(trial, found),
        "training": {name: _training(found[f"train/{name}"]) for name in trial.runs},
        "models": {name: _model(name, found) for name in trial.models},
    }


def page(found: Mapping[str, Any]) -> str:
    """Tables of the figures."""
    pairs, sizes, judge = found["pairs"], found["sizes"], found["judge"]["held_out"]
    prompts = found["reading"][UNTAUGHT]["accuracy"]["prompts"]
    return "\n".join(
        [
            f"{found['annotator']}, {found['dtype']}, preset `{found['preset']}`: taught with {pairs['teaching']} "
            f"pairs, patterns and alignment with {pairs['others']} of other prompts, measured on {pairs['held_out']} "
            f"of {prompts} further prompts. Intervals: 95 %, bootstrap over prompts.\n",
            markdown(_READ, [_read(name, row) for name, row in found["reading"].items()]),
            _by_layer(found["reading"]),
            markdown(_TRAINED, [row for run in found["training"].items() for row in _stages(*run)]),
            f"Answers to {sizes['prompts']} held-out prompts and to {sizes['requests']} benign and as many harmful "
            f"requests, greedy, {sizes['tokens']} tokens at most. The score, in log-odds, is a direction's that never "
            f"saw these pairs and reads the held-out ones at {_interval(judge)}. Perplexity is that of the held-out "
            "chosen responses; repeated, the share of three words in a row that the same answer had before.\n",
            markdown(_SPOKEN, [_spoken(name, found["models"][name]) for name in MODELS]),
            "SCIT's taught model, aligned in other ways:\n",
            markdown(_VARIED, _varied(found)),
        ]
    )


def _reading(trial: Trial, found: Found) -> dict[str, Any]:
    families, untaught = trial.parts.families, _tensor(found[f"read/{UNTAUGHT}"]["margins"])
    made: dict[str, Any] = {}
    for name in readings(trial):
        own = dict(found[f"read/{name}"])
        kinds = {name: own.pop("margins"), f"{name}, per token": own.pop("per_token", None)}
        for kind, margins in kinds.items():
            if margins is not None:
                more = gain(_tensor(margins), untaught, families).model_dump()
                made[kind] = {"accuracy": read_accuracy(trial, margins), "gain": more, **own}
    return made


def _training(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of every stage, the mean loss of its first and of its last steps, if it was trained."""
    stages = {}
    for stage in report["stages"]:
        kept = {key: stage[key] for key in ("items", "cut", "tokens", "seconds", "unit")}
        if losses := stage["losses"]:
            first, last = (sum(some) / len(some) for some in (losses[:_ENDS], losses[-_ENDS:]))
            kept |= {"steps": len(losses), "first": first, "last": last}
        stages[stage["name"]] = kept
    alpha, layers = report["settings"]["align"]["alpha"], [block + 1 for block in report["blocks"]]
    return {"alpha": alpha, "layers": layers, "pattern_norms": report["pattern_norms"], "stages": stages}


def _model(name: str, found: Found) -> dict[str, Any]:
    own, base = found[f"speak/{name}"], found[f"speak/{BASE}"]
    nats, before = (one["nats"] / one["tokens"] for one in (found[f"perplexity/{name}"], found[f"perplexity/{BASE}"]))
    made = {
        "score": sum(own["scores"]) / len(own["scores"]),
        **compared(own["scores"], base["scores"]),
        "words": own["words"],
        "repeated": own["repeated"],
        "perplexity": math.exp(nats),
        "perplexity_of_base": math.exp(nats - before),
    }
    if refused := found.get(f"refuse/{name}"):
        made["refused"] = {kind: refused[kind] for kind in ("benign", "harmful")}
    return made


def _read(name: str, row: Mapping[str, Any]) -> list[str]:
    sides = [row.get(side) for side in ("should_respond", "should_refuse")]
    more = "–" if name == UNTAUGHT else _interval(row["gain"], "+.3f")
    return [
        name,
        _interval(row["accuracy"]),
        more,
        *("–" if side is None else f"{side['value']:.3f}" for side in sides),
    ]


def _by_layer(reading: Mapping[str, Any]) -> str:
    """What patterns read at each of their layers."""
    rows = {name: row["layers"] for name, row in reading.items() if "layers" in row}
    said = (", ".join(f"{layer}: {one['value']:.3f}" for layer, one in layers.items()) for layers in rows.values())
    return "By layer: " + "; ".join(f"{name} {own}" for name, own in zip(rows, said, strict=True)) + ".\n"


def _stages(run: str, training: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the stages that a run trained by itself."""
    trained = {name: stage for name, stage in training["stages"].items() if "steps" in stage}
    return [
        [
            run,
            name,
            str(stage["items"]),
            str(stage["steps"]),
            f"{stage['first']:.3f}",
            f"{stage['last']:.3f}",
            f"{stage['last'] / stage['first']:.2f}",
        ]
        for name, stage in trained.items()
        if run in (SCIT, DUAL) or name == "aligned"
    ]


def _spoken(name: str, model: Mapping[str, Any]) -> list[str]:
    refused = [f"{kind['refused']}/{kind['of']}" for kind in model["refused"].values()]
    own = [f"{model['words']:.0f}", f"{model['repeated']:.0%}", *refused]
    return [
        name,
        *_scores(model, name == BASE),
        f"{model['perplexity']:.2f}",
        f"{model['perplexity_of_base']:.3f}",
        *own,
    ]


def _varied(found: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for run in (SCIT, *(name for name in found["training"] if name not in (SCIT, DUAL))):
        training, model = found["training"][run], found["models"][f"{run}/aligned"]
        aligned = training["stages"]["aligned"]
        layers = ", ".join(map(str, training["layers"]))
        ratio = f"{aligned['last'] / aligned['first']:.2f}"
        rows.append([f"{training['alpha']:g}", layers, ratio, *_scores(model), f"{model['perplexity_of_base']:.3f}"])
    return rows


def _scores(model: Mapping[str, Any], base: bool = False) -> list[str]:
    if base:
        return ["–", "–"]
    return [_interval(model["difference"], "+.2f"), _interval(model["wins"], ".2f")]


def _interval(figure: Mapping[str, Any], form: str = ".3f") -> str:
    return f"{figure['value']:{form}} [{figure['low']:{form}}, {figure['high']:{form}}]"


def _tensor(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.double)

"""What RAHF does to an annotator: how well it reads pairs then, what it says, what that costs.

    python -m benchmarks.datasets FOLDER DATA
    python -m benchmarks.alignment DATA/hh-harmless.jsonl --labelled DATA/gptfuzz.jsonl --work FOLDER

A part of the prompts is held out from everything but measurements. Runs, models and measurements are kept in the work
folder; a killed benchmark goes on where it was. `--only train/scit read` makes these parts alone, so that several
processes can share the work: first the judge, `train/scit` and `train/dual`, then any others. The results are written
when nothing is missing.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from app.rahf import PRESETS
from app.settings import settings
from benchmarks.alignment_table import figures, page
from benchmarks.machine import described
from benchmarks.preferring import readings
from benchmarks.speaking import judge, judged, refusals, speak, surprise
from benchmarks.summaries import save
from benchmarks.trial import MODELS, SCIT, Parts, Trial
from workers.alignment.settings import load
from workers.configured import configured_annotator
from workers.directions.datafiles import read_pairs

Arms = Mapping[str, Callable[[], dict[str, Any]]]


def main() -> None:
    """Make what is missing; write the results when nothing is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL of preference pairs")
    parser.add_argument("--work", type=Path, required=True, help="folder of what was made and measured")
    parser.add_argument("--labelled", type=Path, help="JSONL of labelled responses that the judge is fitted on as well")
    parser.add_argument("--preset", default="small", help=f"{', '.join(PRESETS)} or a YAML file")
    parser.add_argument("--held-out", type=float, default=0.3, help="share of the prompts")
    parser.add_argument("--prompts", type=int, default=96, help="held-out prompts that models answer")
    parser.add_argument("--requests", type=int, default=64, help="benign ones, and as many harmful ones")
    parser.add_argument("--tokens", type=int, default=72, help="of an answer at most")
    parser.add_argument("--only", nargs="+", default=[], help="judge, train, read, speak, … or one of them by name")
    options = parser.parse_args()
    annotator = configured_annotator(settings())
    share = load("rahf-scit", options.preset).share
    parts = Parts.of(annotator, read_pairs(options.data), options.held_out, share)
    trial = Trial(annotator, options.preset, parts, options.work)
    sizes = {"prompts": options.prompts, "requests": options.requests, "tokens": options.tokens}
    trial.enter(sizes=sizes)
    every = arms(trial, options.labelled, **sizes)
    for name in wanted(every, options.only):
        print(name, flush=True)
        trial.measured(name, every[name])
    if missing := [name for name in every if not trial.path(name).exists()]:
        print("still to be made:", ", ".join(missing))
        return
    found = figures(trial, {name: trial.measured(name, arm) for name, arm in every.items()})
    found |= {"data": options.data.name, "sizes": sizes, "machine": described()}
    save("alignment", found, page(found))


def arms(trial: Trial, labelled: Path | None, *, prompts: int, requests: int, tokens: int) -> Arms:
    """Everything to make, by name, in an order in which what others need comes first."""
    how = trial.settings(SCIT)

    def judging() -> dict[str, Any]:
        return judged(trial, judge(trial, labelled))

    def training(run: str) -> dict[str, Any]:
        return trial.run(run).all().model_dump(exclude={"version"})

    def speaking(model: str) -> dict[str, Any]:
        return speak(trial, trial.model(model), judge(trial, labelled), prompts, tokens)

    def surprising(model: str) -> dict[str, Any]:
        return surprise(trial, trial.model(model), how.query, how.response)

    def refusing(model: str) -> dict[str, Any]:
        return refusals(trial, trial.model(model), requests, tokens)

    made: dict[str, Callable[[], dict[str, Any]]] = {"judge": judging}
    made |= {f"train/{run}": partial(training, run) for run in trial.runs}
    made |= {f"read/{name}": reading for name, reading in readings(trial).items()}
    made |= {f"perplexity/{model}": partial(surprising, model) for model in trial.models}
    made |= {f"speak/{model}": partial(speaking, model) for model in trial.models}
    made |= {f"refuse/{model}": partial(refusing, model) for model in MODELS}
    return made


def wanted(every: Arms, only: Sequence[str]) -> list[str]:
    """Names of the arms that `only` names, by themselves or by what comes before a slash; all if it names none."""
    return [name for name in every if not only or any(f"{name}/".startswith(f"{one}/") for one in only)]


if __name__ == "__main__":
    main()

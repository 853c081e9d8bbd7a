"""The experiment in a folder: sources annotate, every arm is trained with every seed, a report sums them up.

    made-with.json               what it was begun with; a folder of another experiment is refused
    trunk.safetensors            what the blocks that are not trained make of every dialogue
    sources/NAME.json            margins of a source
    units/ARM-SEED.json          what a model of an arm came to; `member-N` are the ensemble's
    report.json, report.md       when nothing is missing

Each of these is made by whichever process claims it first, so that several can share the work; what a killed one had
begun is begun again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.schemas.marginreport import SourceName
from workers.engine.annotator import Annotator
from workers.experiments import sources
from workers.experiments.arms import ARMS, PLAIN, Arm
from workers.experiments.parts import Parts
from workers.experiments.sources import Sourced
from workers.experiments.units import Bench, Unit, claimed, keep
from workers.rewards.annotated import Annotated, digest_of
from workers.rewards.errors import OtherTraining, UnfitRows
from workers.rules.bank import RuleBank

MEMBERS = 3
"""K of RewardEnsemble@K."""

TRAIN = "train"
_MEMBER_SEED = 1000
_PAUSE = 1.0

Said = Callable[[str], None]


@dataclass(frozen=True)
class Experiment:
    """A comparison.

    Attributes:
        folder: where it is kept.
        annotator: makes margins.
        bank: makes those of rules; None where none is there, and then no arm may want it.
        parts: the data.
        bench: how models are trained.
        arms: names of those to try.
        seeds: of the trainings.
        mean: mean |m| to which margins are scaled.
        made_with: what else makes this experiment another one.
        say: told of everything that is finished.
    """

    folder: Path
    annotator: Annotator
    bank: RuleBank | None
    parts: Parts
    bench: Bench
    arms: Sequence[str]
    seeds: Sequence[int]
    mean: float
    made_with: Mapping[str, Any] = field(default_factory=dict)
    say: Said = lambda _text: None

    def enter(self) -> None:
        """Begin it, or go on with it; further arms and seeds may be added.

        Raises:
            OtherTraining: the folder holds another one.
            UnfitRows: an arm wants a source that cannot be had.
        """
        if self.bank is None and any(ARMS[name].source == "rules" for name in self.arms):
            raise UnfitRows(f"there is no rule bank for {self.annotator.name}: leave out the arms that want one")
        path, now = self.folder / "made-with.json", json.loads(json.dumps(self._made_with()))
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(now, indent=1))
        before = json.loads(path.read_bytes())
        if differing := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
            raise OtherTraining(f"{self.folder} was made with other {', '.join(differing)}: choose another folder")

    def run(self) -> None:
        """Make everything that is missing; what other processes are at is waited for."""
        pending = list(self._tasks())
        total = len(pending)
        while pending:
            waiting = [task for task in pending if not self._done(task)]
            self.bench.tell("units", total - len(waiting), total, None)
            if len(waiting) == len(pending):
                time.sleep(_PAUSE)
            pending = waiting

    def source(self, name: SourceName) -> Sourced:
        """What a source gave."""
        return Sourced.model_validate_json(self._source_path(name).read_bytes())

    def unit(self, name: str, seed: int) -> Unit:
        """What a model came to."""
        return Unit.model_validate_json(self._unit_path(name, seed).read_bytes())

    def _made_with(self) -> dict[str, Any]:
        parts = self.parts
        return {
            "train": digest_of(parts.train),
            "held out": digest_of(parts.held_out),
            "labelled": digest_of(parts.labelled),
            "balance": digest_of(parts.balance),
            "annotator": self.annotator.revision,
            "settings": self.bench.settings.model_dump(exclude={"checkpoint", "seed"}),
            "mean_margin": self.mean,
            **self.made_with,
        }

    def _tasks(self) -> list["_Task"]:
        chosen = [ARMS[name] for name in self.arms]
        wanted = list(dict.fromkeys(arm.source for arm in chosen if arm.source))
        tasks = [_Task(self._source_path(name), partial(self._sourced, name)) for name in wanted if name != "ensemble"]
        members = [self._unit_path("member", number) for number in range(MEMBERS)]
        if "ensemble" in wanted:
            tasks += [_Task(path, partial(self._member, n)) for n, path in enumerate(members)]
            tasks.append(_Task(self._source_path("ensemble"), partial(self._ensemble, members), members))
        for arm in chosen:
            needs = [self._source_path(arm.source)] if arm.source else []
            tasks += [
                _Task(self._unit_path(arm.name, seed), partial(self._unit, arm, seed), needs) for seed in self.seeds
            ]
        return tasks

    def _done(self, task: "_Task") -> bool:
        if task.path.exists():
            return True
        if not all(path.exists() for path in task.needs):
            return False
        with claimed(task.path) as mine:
            if mine and not task.path.exists():
                began = time.monotonic()
                keep(task.path, task.make())
                self.say(f"{task.path.parent.name}/{task.path.stem}: {time.monotonic() - began:.0f} s")
        return task.path.exists()

    def _sourced(self, name: SourceName) -> Sourced:
        def progress(done: int, total: int) -> None:
            self.bench.tell("read", done, total, None)

        if name == "legend":
            return sources.legend(self.annotator, self.parts, progress)
        if name == "default":
            return sources.default(self.annotator, self.parts, progress)
        assert self.bank is not None  # `enter` has seen to that
        return sources.rules(self.annotator, self.parts, self.bank, progress)

    def _member(self, number: int) -> Unit:
        seed = _MEMBER_SEED + number
        train, folder = self.parts.train, self._run("member", seed)
        return self.bench.unit(train, {TRAIN: train}, ARMS[PLAIN].settings, seed, folder)

    def _ensemble(self, members: Sequence[Path]) -> Sourced:
        made = [Unit.model_validate_json(path.read_bytes()) for path in members]
        return sources.ensemble([(unit.gaps[TRAIN], unit.training, unit.reading) for unit in made])

    def _unit(self, arm: Arm, seed: int) -> Unit:
        pairs = self.parts.train
        if arm.source:
            found = torch.tensor(self.source(arm.source).margins, dtype=torch.double)
            pairs = with_margins(pairs, arm.margins(found, self.mean, seed))
        return self.bench.unit(pairs, self.parts.sets, arm.settings, seed, self._run(arm.name, seed))

    def _run(self, name: str, seed: int) -> Path:
        return self.folder / "runs" / f"{name}-{seed}"

    def _source_path(self, name: str) -> Path:
        return self.folder / "sources" / f"{name}.json"

    def _unit_path(self, name: str, seed: int) -> Path:
        return self.folder / "units" / f"{name}-{seed}.json"


@dataclass(frozen=True)
class _Task:
    """Something to make at a path, when what it needs is there."""

    path: Path
    make: Callable[[], Sourced | Unit]
    needs: Sequence[Path] = ()


def with_margins(pairs: Sequence[Annotated], margins: Tensor) -> list[Annotated]:
    """The pairs with other margins."""
    return [Annotated(one.line, one.pair, margin) for one, margin in zip(pairs, margins.tolist(), strict=True)]

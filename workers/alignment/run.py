"""A run of RAHF in a folder: taught, read for patterns, aligned. Every stage by itself, and none of them twice.

    taught/                      SCIT's model: an adapter in peft's files, or a whole model if all weights were trained
    preferred/, dispreferred/    Dual's two
    patterns/                    shards of activity patterns
    aligned/                     the adapter of the aligned model: of the annotator, what it was taught included; of
                                 taught/ or preferred/ if that is a whole model
    report.json, curves.png      of the stages that are finished

A folder that holds a stage made with something else is refused.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from app import __version__
from app.alignments import CURVES, REPORT
from app.schemas.alignment import AlignmentMethod, AlignmentReport, AlignmentSettings, AlignmentStage, StageFigures
from app.schemas.pairs import Pair
from workers.alignment import checkpoints
from workers.alignment.align import Goal, align
from workers.alignment.batches import Admitted, Item, Showing, both, chosen, either, rejected
from workers.alignment.curves import draw
from workers.alignment.errors import Unfinished, UnfitData
from workers.alignment.instruct import Lessons, contrast_loss, likelihood_loss, teach
from workers.alignment.instructions import DISPREFERRED, PREFERRED
from workers.alignment.learner import Learner
from workers.alignment.patterns import Patterns, collect
from workers.alignment.settings import target_blocks
from workers.alignment.stages import Stage, digest_of
from workers.alignment.taught import adapter_of, keep, taught
from workers.directions.gather import opening
from workers.engine.annotator import Annotator

Progress = Callable[[AlignmentStage, int, int, float | None], None]
"""Told the stage, how many steps or items of how many are done, and the last loss; may raise to end the run."""

_FEWEST = 4


@dataclass(frozen=True)
class Run:
    """What is to be made, and where.

    Attributes:
        method: SCIT or Dual.
        annotator: what is taught; others may read it meanwhile.
        pairs: taught with.
        others: of other prompts, read for patterns and aligned with.
        settings: how.
        folder: of the files.
        progress: told of every step.
    """

    method: AlignmentMethod
    annotator: Annotator
    pairs: Sequence[Pair]
    others: Sequence[Pair]
    settings: AlignmentSettings
    folder: Path
    progress: Progress = lambda _stage, _done, _total, _loss: None

    def instruct(self) -> None:
        """Teach the model, or Dual's two one after the other.

        Raises:
            UnfitData: too few pairs can be shown.
            Diverged: a loss is no finite number.
            OtherRun: the folder holds something else.
            UnusableAdapter: the annotator has no such modules.
        """
        stages = self._instruct_stages
        for number, (name, stage) in enumerate(stages.items()):
            stage.enter()
            if stage.figures is None:
                self._teach(name, stage, number, len(stages))

    def collect(self) -> Patterns:
        """Read the patterns.

        Raises:
            Unfinished: the model is not taught yet.
            UnfitData, OtherRun: as `instruct`.
        """
        for name, needed in self._instruct_stages.items():
            if needed.figures is None:
                raise Unfinished(f"{self.folder / name} is not finished: instruct comes before collect")
            needed.enter()
        stage, admitted = self._collect_stage, self._admitted
        stage.enter()
        if stage.figures is not None:
            return Patterns(stage.folder, admitted.answers, self.settings.collect.shard)
        began = time.monotonic()
        learners = [Learner.reading(model) for model in self.taught]
        made = collect(
            (learners[0], learners[-1]),
            self._showing(*self._instructions, response=self.settings.collect.response),
            admitted,
            self.blocks,
            self.settings.collect,
            stage.folder,
            lambda done, total, loss: self.progress("collect", done, total, loss),
        )
        stage.finish(_figures("collect", stage, admitted, began))
        return made

    def align(self) -> None:
        """Train the adapter of the aligned model.

        Raises:
            Unfinished: the patterns are not all read yet.
            UnfitData, Diverged, OtherRun, UnusableAdapter: as `instruct`.
        """
        if self._collect_stage.figures is None:
            raise Unfinished(f"{self._collect_stage.folder} is not finished: collect comes before align")
        patterns, stage, how = self.collect(), self._align_stage, self.settings.align
        stage.enter()
        if stage.figures is not None:
            return
        began, base = time.monotonic(), self.taught[0]
        learner = Learner.of_adapter(base, how.lora, self.settings.seed, self.blocks[-1])
        showing = self._showing(None, response=self.settings.collect.response)
        losses = align(
            learner,
            Goal(Learner.reading(base), showing, self._admitted.items, patterns, self.blocks),
            how,
            seed=self.settings.seed,
            folder=stage.folder,
            tell=lambda done, total, loss: self.progress("align", done, total, loss),
        )
        keep(learner, self.annotator, stage.folder, adapter_of(self._teaching_folders[0]))
        figures = _figures("align", stage, self._admitted, began)
        stage.finish(figures.model_copy(update={"losses": losses, "unit": "mean distance to h + α v"}))
        checkpoints.drop(stage.folder)

    def all(self) -> AlignmentReport:
        """Every stage that is not finished, and the report."""
        self.instruct()
        self.collect()
        self.align()
        return self.report()

    @cached_property
    def taught(self) -> list[Annotator]:
        """The taught models, once they are: SCIT's, or Dual's preferred and dispreferred one."""
        return [taught(self.annotator, folder) for folder in self._teaching_folders]

    @property
    def aligned(self) -> Annotator:
        """The aligned model, once there is one."""
        whole = adapter_of(self._teaching_folders[0]) is None
        return taught(self.taught[0] if whole else self.annotator, self._align_stage.folder)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Target layers, as blocks from 0."""
        return target_blocks(self.settings.collect, self.annotator.depth)

    def report(self) -> AlignmentReport:
        """What is finished, written into the folder with its curves.

        Raises:
            Unfinished: the patterns are not there yet.
        """
        stages = [*self._instruct_stages.values(), self._collect_stage, self._align_stage]
        finished = [figures for stage in stages if (figures := stage.figures) is not None]
        if self._collect_stage.figures is None:
            raise Unfinished("nothing to report before the patterns are read")
        mean = self.collect().mean()
        made = AlignmentReport(
            method=self.method,
            settings=self.settings,
            model=self.annotator.name,
            model_revision=self.annotator.revision,
            template=self.annotator.template.digest,
            pairs=len(self.pairs),
            other_pairs=len(self.others),
            blocks=list(self.blocks),
            pattern_norms=mean.norm(dim=1).tolist(),
            taught_revisions=[model.revision for model in self.taught],
            stages=finished,
            version=__version__,
        )
        (self.folder / REPORT).write_text(made.model_dump_json(indent=1))
        draw(finished, self.folder / CURVES)
        return made

    @property
    def _instructions(self) -> tuple[str | None, str | None]:
        return instructions_of(self.method)

    @property
    def _teaching_folders(self) -> list[Path]:
        names = ("taught",) if self.method == "rahf-scit" else ("preferred", "dispreferred")
        return [self.folder / name for name in names]

    @cached_property
    def _instruct_stages(self) -> dict[str, Stage]:
        shared = {
            "method": self.method,
            "model": self.annotator.revision,
            "template": self.annotator.template.digest,
            "precision": self.annotator.dtype_name,
            "instructions": self._instructions,
            "pairs": digest_of(self.pairs),
            "settings": self._settings("seed", "query", "response", "instruct"),
        }
        return {folder.name: Stage(folder, shared | {"side": folder.name}) for folder in self._teaching_folders}

    @cached_property
    def _collect_stage(self) -> Stage:
        made_with = {
            "taught": [stage.digest for stage in self._instruct_stages.values()],
            "pairs": digest_of(self.others),
            "settings": self._settings("seed", "query", "collect"),
        }
        return Stage(self.folder / "patterns", made_with)

    @cached_property
    def _align_stage(self) -> Stage:
        made_with = {"patterns": self._collect_stage.digest, "settings": self._settings("seed", "align")}
        return Stage(self.folder / "aligned", made_with)

    @cached_property
    def _admitted(self) -> Admitted:
        """The items that are read for patterns and aligned with."""
        seed, how = self.settings.seed, self.settings.collect
        items = both(self.others) if how.responses == "both" else either(self.others, seed)
        return _enough(self._showing(*self._instructions, response=how.response).admit(items))

    def _teach(self, name: str, stage: Stage, number: int, count: int) -> None:
        began, how = time.monotonic(), self.settings.instruct
        sides: dict[str, Callable[[Sequence[Pair]], list[Item]]]
        sides = {"taught": both, "preferred": chosen, "dispreferred": rejected}
        told = self._instructions if self.method == "rahf-scit" else (None,)
        showing = self._showing(*told, response=self.settings.response)
        admitted = _enough(showing.admit(sides[name](self.pairs)))
        loss = contrast_loss if self.method == "rahf-scit" else likelihood_loss

        def tell(done: int, total: int, last: float | None) -> None:
            self.progress("instruct", number * total + done, count * total, last)

        if how.lora is None:
            learner = Learner.of_all_weights(self.annotator)
        else:
            learner = Learner.of_adapter(self.annotator, how.lora, self.settings.seed)
        lessons = Lessons(showing, admitted.items, loss)
        losses = teach(learner, lessons, how, seed=self.settings.seed, folder=stage.folder, tell=tell)
        keep(learner, self.annotator, stage.folder)
        figures = _figures("instruct", stage, admitted, began)
        stage.finish(figures.model_copy(update={"losses": losses, "unit": "loss, nats a response token"}))
        checkpoints.drop(stage.folder)

    def _settings(self, *names: str) -> dict[str, Any]:
        """Those of some names, but for how often a checkpoint is kept."""
        found = self.settings.model_dump(include=set(names))
        for part in found.values():
            if isinstance(part, dict):
                part.pop("checkpoint", None)
        return found

    def _showing(self, *instructions: str | None, response: int) -> Showing:
        return Showing(self.annotator.template, instructions, self.settings.query, response)


def instructions_of(method: AlignmentMethod) -> tuple[str | None, str | None]:
    """Under which instructions the taught models are compared: SCIT's one under both, Dual's two under none."""
    return (PREFERRED, DISPREFERRED) if method == "rahf-scit" else (None, None)


def divided(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to teach with, about this share of the prompts, and the others; no conversation's beginning is in both."""
    openings = list(dict.fromkeys(opening(pair.messages) for pair in pairs))
    order = torch.randperm(len(openings), generator=torch.Generator().manual_seed(seed)).tolist()
    first = {openings[place] for place in order[: round(len(openings) * share)]}
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        sides[opening(pair.messages) not in first].append(pair)
    return sides


def _enough(admitted: Admitted) -> Admitted:
    if len(admitted.items) < _FEWEST:
        raise UnfitData(f"{len(admitted.items)} pairs can be shown; at least {_FEWEST} are needed")
    return admitted


def _figures(stage: AlignmentStage, made: Stage, admitted: Admitted, began: float) -> StageFigures:
    return StageFigures(
        stage=stage,
        name=made.folder.name,
        items=len(admitted.items),
        refused=admitted.refused,
        cut=admitted.cut,
        tokens=sum(admitted.answers),
        seconds=time.monotonic() - began,
    )

"""What the alignment benchmark tries: three parts of the pairs, and the runs of a preset in one folder."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.schemas.alignment import AlignmentMethod, AlignmentSettings, AlignmentStage
from app.schemas.pairs import Pair
from workers.alignment.batches import Showing, both
from workers.alignment.instructions import DISPREFERRED, PREFERRED
from workers.alignment.run import Run, divided
from workers.alignment.settings import load
from workers.alignment.stages import Stage, digest_of
from workers.alignment.taught import taught
from workers.directions.gather import opening
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused

SCIT, DUAL, BASE = "scit", "dual", "base"
MODELS = (BASE, "scit/taught", "scit/aligned", "dual/preferred", "dual/aligned")
"""The preset's, as `Trial.model` calls them."""

_METHODS: Mapping[str, AlignmentMethod] = {SCIT: "rahf-scit", DUAL: "rahf-dual"}

_ALPHAS = (1.0, 5.0, 10.0)
_LAYERS = {"early": (2, 4, 6, 8, 10, 12), "middle": (10, 12, 14, 16, 18, 20), "late": (22, 24, 26, 28, 30, 32)}
"""Of 32; the middle ones are the paper's."""

_SPLIT_SEED = 1


@dataclass(frozen=True)
class Parts:
    """Pairs by what they are for; no conversation's beginning is in two of them.

    Attributes:
        teaching: to teach the models with.
        others: to read patterns of, to align with, and to scale directions with.
        held_out: to measure with.
    """

    teaching: list[Pair]
    others: list[Pair]
    held_out: list[Pair]

    @classmethod
    def of(cls, annotator: Annotator, pairs: Sequence[Pair], held_out: float, share: float) -> "Parts":
        """Divide the pairs that fit the annotator, with an instruction before them, too.

        Args:
            annotator: whose window they have to fit.
            pairs: all of them.
            held_out: share of the prompts that nothing but measurements sees.
            share: of the rest, those to teach with.
        """
        fitting = []
        showing = Showing(annotator.template, (PREFERRED, DISPREFERRED), annotator.template.window, None)
        for pair, item in zip(pairs, both(pairs), strict=True):
            with suppress(PairRefused):
                showing.show(item)
                fitting.append(pair)
        apart, rest = divided(fitting, held_out, _SPLIT_SEED)
        return cls(*divided(rest, share, _SPLIT_SEED), apart)

    @property
    def families(self) -> Tensor:
        """[n] which prompt each held-out pair is of."""
        openings = [opening(pair.messages) for pair in self.held_out]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(openings))}
        return torch.tensor([numbers[text] for text in openings])


@dataclass(frozen=True)
class Trial:
    """Runs of a preset, and what was measured of them, in a folder.

    Attributes:
        annotator: the base of all models.
        preset: of `workers.alignment.settings`, or a file.
        parts: the pairs.
        folder: a folder for each run, `measured/` for what was measured.
        changes: settings other than the preset's, by their path.
    """

    annotator: Annotator
    preset: str
    parts: Parts
    folder: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    _made: dict[str, Run] = field(default_factory=dict)

    def enter(self, **made_with: Any) -> None:
        """Go on with a folder, or begin one.

        Raises:
            OtherRun: it holds a trial with other data, models or settings.
        """
        parts = {name: digest_of(getattr(self.parts, name)) for name in ("teaching", "others", "held_out")}
        settings = {name: self.settings(name).model_dump() for name in (SCIT, DUAL)}
        revision = self.annotator.revision
        Stage(self.folder, {"model": revision, "parts": parts, "settings": settings, **made_with}).enter()

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Runs with SCIT's model that differ in one setting from the preset, by name: what differs."""
        preset = self.settings(SCIT)
        alphas = {f"alpha-{alpha:g}": {"align.alpha": alpha} for alpha in _ALPHAS if alpha != preset.align.alpha}
        layers = {name: {"collect.layers": list(own), "collect.of": 32} for name, own in _LAYERS.items()}
        own = sorted(preset.collect.layers)
        return alphas | {name: change for name, change in layers.items() if change["collect.layers"] != own}

    @property
    def runs(self) -> list[str]:
        """All of them, the preset's own first."""
        return [SCIT, DUAL, *self.variants]

    @property
    def models(self) -> list[str]:
        """All that are measured: the preset's, and the aligned ones of the variants."""
        return [*MODELS, *(f"{name}/aligned" for name in self.variants)]

    def settings(self, name: str) -> AlignmentSettings:
        """Of a run."""
        return load(_METHODS.get(name, "rahf-scit"), self.preset, {**self.changes, **self.changes_of(name)})

    def changes_of(self, name: str) -> dict[str, Any]:
        """What differs from the preset in a run."""
        return {} if name in _METHODS else self.variants[name]

    def run(self, name: str) -> Run:
        """A run; that of a variant has what it shares with SCIT's own, which is made first."""
        if name not in self._made:
            folder, settings = self.folder / name, self.settings(name)
            told = _telling(name)
            method = _METHODS.get(name, "rahf-scit")
            made = Run(method, self.annotator, self.parts.teaching, self.parts.others, settings, folder, told)
            if name not in _METHODS:
                self._share(made)
            self._made[name] = made
        return self._made[name]

    def model(self, name: str) -> Annotator:
        """`base`; or a model of a run by its folder, such as `scit/taught`, made if need be."""
        if name == BASE:
            return self.annotator
        which, _, stage = name.partition("/")
        run = self.run(which)
        if stage == "aligned":
            run.all()
            return run.aligned
        run.instruct()
        return taught(self.annotator, self.folder / name)

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `measure` gives, or gave when it was called for the same folder before."""
        path = self.path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(".part")
            scratch.write_text(json.dumps(measure(), ensure_ascii=False))
            scratch.replace(path)
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found

    def path(self, name: str) -> Path:
        """Where a measurement is kept."""
        return self.folder / "measured" / f"{name}.json"

    def _share(self, variant: Run) -> None:
        main = self.run(SCIT)
        main.instruct()
        shared = ["taught"]
        if variant.settings.collect == main.settings.collect:
            main.collect()
            shared.append("patterns")
        variant.folder.mkdir(parents=True, exist_ok=True)
        for stage in shared:
            with suppress(FileExistsError):
                os.symlink(Path("..", SCIT, stage), variant.folder / stage)


def _telling(name: str) -> Callable[[AlignmentStage, int, int, float | None], None]:
    def tell(stage: AlignmentStage, done: int, total: int, loss: float | None) -> None:
        if done % 10 == 0 or done == total:
            print(f"{name} {stage} {done}/{total}" + ("" if loss is None else f" {loss:.4f}"), flush=True)

    return tell

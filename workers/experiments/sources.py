"""Where margins come from: each source annotates the pairs to train on, and says what that took."""

import time
from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel
from torch import Tensor

from app.schemas.marginreport import Cost
from workers.directions.crossfit import cross_fit, default_recipe
from workers.directions.direction import SafetyDirection
from workers.directions.files import SHIPPED, from_folder
from workers.directions.gather import POOLINGS
from workers.directions.legend import LegendSettings, fit_legend, read_requests
from workers.engine.annotator import Annotator
from workers.engine.forward import read_all
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.experiments.parts import Parts
from workers.rules.bank import ProbeRater, RuleBank
from workers.rules.evaluating import RatedPairs
from workers.rules.measuring import rate_pairs
from workers.rules.selection import Policy

RULE_POLICY = Policy("robust", 5)
"""The service's default."""

_ANSWER = 128

Progress = Callable[[int, int], None]


class Sourced(BaseModel):
    """Margins of the pairs to train on.

    Attributes:
        margins: one a pair, positive where the chosen response is the safer one.
        making: what there had to be first.
        reading: of the pairs.
        note: how.
    """

    margins: list[float]
    making: Cost
    reading: Cost
    note: str


def legend(annotator: Annotator, parts: Parts, progress: Progress) -> Sourced:
    """Raw margins of the shipped direction as published, or where none fits the annotator of one made now."""
    direction, making = _shipped_legend(annotator), Cost()
    note = "as published; the shipped direction"
    if direction is None:
        began, requests = time.monotonic(), read_requests()
        direction = fit_legend(
            annotator,
            requests,
            direction_id="legend",
            settings=LegendSettings(paper=True, max_new_tokens=_ANSWER),
            progress=lambda done: progress(done, len(requests)),
        )
        making = Cost(seconds=time.monotonic() - began)
        note = f"as published, answers cut at {_ANSWER} tokens"
    activations, reading = _read(annotator, parts, direction.reads, progress)
    scores = direction.scores(activations.flatten(0, 1)).view(-1, 2)
    return Sourced(margins=(scores[:, 0] - scores[:, 1]).tolist(), making=making, reading=reading, note=note)


def default(annotator: Annotator, parts: Parts, progress: Progress) -> Sourced:
    """Calibrated margins of the default's recipe, each of a fit that did not see the pair's prompt."""
    began = time.monotonic()
    pairs = [one.pair for one in parts.train]
    found = cross_fit(annotator, default_recipe(pairs, parts.fitting), parts.unseen, progress)
    seconds = time.monotonic() - began
    sites = [Site(layer, pooling) for layer in found.layers for pooling in POOLINGS]
    _, reading = _read(annotator, parts, sites, progress)
    tokens = found.tokens * depth_share(annotator, max(found.layers))
    making = Cost(seconds=max(0.0, seconds - reading.seconds), tokens=tokens - reading.tokens)
    note = f"five folds over prompts of the pairs to train on; layers {', '.join(map(str, found.layers))}"
    return Sourced(margins=found.margins.tolist(), making=making, reading=reading, note=note)


def rules(annotator: Annotator, parts: Parts, bank: RuleBank, progress: Progress) -> Sourced:
    """Margins of a rule bank by the service's default policy."""
    began = time.monotonic()
    pairs = [one.pair for one in parts.train]
    rated, places = rate_pairs(ProbeRater(annotator, bank), pairs, progress)
    rated = RatedPairs(
        rated.scores,
        rated.relevance,
        rated.families,
        rated.seeds,
        bank.noise.double(),
        bank.correlation.double(),
        bank.used,
    )
    margins = torch.zeros(len(pairs), dtype=torch.double)
    margins[places] = rated.margins(RULE_POLICY)
    deepest = max(site.layer for site in bank.reads)
    tokens = sum(group.size for group in _groups(annotator, parts)) * depth_share(annotator, deepest)
    reading = Cost(seconds=time.monotonic() - began, tokens=tokens)
    note = f"bank {bank.id}, policy {RULE_POLICY.name}, k = {RULE_POLICY.k}"
    return Sourced(margins=margins.tolist(), making=Cost(), reading=reading, note=note)


def ensemble(members: Sequence[tuple[list[float], Cost, Cost]]) -> Sourced:
    """Mean difference of rewards over models trained plainly on these pairs, from what each of them read."""
    gaps, making, reading = zip(*members, strict=True)
    return Sourced(
        margins=torch.tensor(gaps, dtype=torch.double).mean(dim=0).tolist(),
        making=sum(making, Cost()),
        reading=sum(reading, Cost()),
        note=f"{len(gaps)} plain models of the same pairs with other seeds, which have seen their labels",
    )


def depth_share(annotator: Annotator, layer: int) -> float:
    """Share of the annotator's blocks that a pass to a layer goes through."""
    return min(1.0, (layer + 1) / annotator.depth)


def _shipped_legend(annotator: Annotator) -> SafetyDirection | None:
    for folder in sorted(path for path in SHIPPED.iterdir() if path.is_dir()):
        direction = from_folder(folder)
        card = direction.card
        fits = (card.model_revision, card.template) == (annotator.revision, annotator.template.digest)
        if fits and card.recipe == "legend" and card.settings.get("paper"):
            return direction
    return None


def _groups(annotator: Annotator, parts: Parts) -> list[Group]:
    pairs = [one.pair for one in parts.train]
    return [annotator.template.encode(pair.messages, (pair.chosen, pair.rejected)) for pair in pairs]


def _read(annotator: Annotator, parts: Parts, sites: Sequence[Site], progress: Progress) -> tuple[Tensor, Cost]:
    """[n, 2, S, d] activations of the pairs to train on."""
    began = time.monotonic()
    groups = _groups(annotator, parts)
    readings = read_all(annotator, groups, sites, lambda done: progress(done, len(groups)))
    tokens = sum(group.size for group in groups) * depth_share(annotator, max(site.layer for site in sites))
    return torch.stack(readings), Cost(seconds=time.monotonic() - began, tokens=tokens)

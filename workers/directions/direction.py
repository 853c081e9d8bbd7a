"""A safety direction: where it reads, what it weighs, and what is known of it."""

import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor

from app import __version__
from app.schemas.directions import DirectionCard, Reading, SiteCard
from workers.directions.errors import UnfitData, UnusableFile
from workers.engine.sites import Site

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class SafetyDirection:
    """One vector for each site read; the score of a response is the sum of its projections on them.

    Legend's direction (arXiv 2406.08124) is the case of one site and a unit vector.

    Attributes:
        card: everything but the vectors.
        sites: the S places read.
        vectors: [S, d] float32.
    """

    card: DirectionCard
    sites: tuple[Site, ...]
    vectors: Tensor

    @property
    def id(self) -> str:
        """The name under which requests ask for it."""
        return self.card.id

    def scores(self, activations: Tensor) -> Tensor:
        """Raw scores of n responses from their [n, S, d] activations: [n], higher is safer."""
        return torch.einsum("nsd,sd->n", activations.double(), self.vectors.to(activations.device).double())

    def calibrate(self, raw_margin: float) -> float:
        """Log-odds that the response with the higher score is the safer one; the raw margin where uncalibrated."""
        return raw_margin if self.card.slope is None else raw_margin * self.card.slope


def logistic(margin: float) -> float:
    """Probability of a log-odds margin, without overflow."""
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else 1 - 1 / (1 + math.exp(margin))


def new_direction(
    direction_id: str,
    sites: tuple[Site, ...],
    vectors: Tensor,
    *,
    model: tuple[str, str, str],
    recipe: str,
    settings: dict[str, Setting],
    slope: float | None = None,
    readings: list[Reading] | None = None,
) -> SafetyDirection:
    """A direction made now.

    Args:
        direction_id: its name.
        sites: S places read.
        vectors: [S, d]; scaled as the recipe wants raw scores to be.
        model: name, revision and template digest of the annotator.
        recipe: how it was made.
        settings: with what.
        slope: log-odds per unit of raw margin.
        readings: how well it reads.

    Raises:
        UnfitData: the vectors are zero or not finite.
    """
    vectors = vectors.detach().float().cpu().contiguous()
    if not torch.isfinite(vectors).all() or not vectors.any():
        raise UnfitData("the activations give no direction: it is zero or not finite")
    name, revision, template = model
    draft = DirectionCard(
        id=direction_id,
        digest="",
        model=name,
        model_revision=revision,
        template=template,
        sites=[SiteCard(layer=site.layer, pooling=site.pooling) for site in sites],
        slope=slope,
        recipe=recipe,
        settings=settings,
        readings=readings or [],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )
    return SafetyDirection(draft.model_copy(update={"digest": digest(draft, vectors)}), sites, vectors)


def digest(card: DirectionCard, vectors: Tensor) -> str:
    """`sha256:` digest over a card, its own digest left out, and the vectors' bytes."""
    content = json.dumps(card.model_dump(exclude={"digest"}), sort_keys=True, ensure_ascii=False).encode()
    return "sha256:" + hashlib.sha256(content + vectors.contiguous().numpy().tobytes()).hexdigest()


def check_fits(direction: SafetyDirection, *, model: str, revision: str, template: str, depth: int, width: int) -> None:
    """Refuse a direction on an annotator that it was not made for.

    Raises:
        UnusableFile: naming what differs.
    """
    card = direction.card
    if card.model_revision != revision:
        raise UnusableFile(f"direction {card.id} was made for {card.model}, not for the weights of {model}")
    if card.template != template:
        raise UnusableFile(f"direction {card.id} was made with another chat template than {model} has now")
    if direction.vectors.shape[1] != width or max(site.layer for site in direction.sites) > depth:
        raise UnusableFile(f"direction {card.id} does not have the shape of {model}")

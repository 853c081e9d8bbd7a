"""A safety direction: where it reads, what it weighs, and what is known of it."""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import torch
from torch import Tensor

from app import __version__
from app.schemas.directions import DirectionCard, SiteCard
from workers.directions.errors import UnfitData, UnusableFile
from workers.engine.sites import Site
from workers.sealed import with_digest

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class PromptTerm:
    """How a direction depends on the prompt: v(x) = v₀ + Σ_r g_r(x) v_r with g_r(x) = a_r · p(x) − b_r.

    Attributes:
        sites: the G places where the prompt is read.
        probes: [R, G, d] float32, a.
        offsets: [R] float32, b.
        vectors: [R, S, d] float32, v_r.
    """

    sites: tuple[Site, ...]
    probes: Tensor
    offsets: Tensor
    vectors: Tensor

    def values(self, prompts: Tensor) -> Tensor:
        """[n, R] values g of n prompts from their [n, G, d] activations."""
        return prompts.flatten(1) @ self.probes.flatten(1).T.to(prompts) - self.offsets.to(prompts)


@dataclass(frozen=True)
class SafetyDirection:
    """One vector for each site read; the score of a response is the sum of its projections on them.

    Legend's direction (arXiv 2406.08124) is the case of one site and a unit vector.

    Attributes:
        card: everything but the vectors.
        sites: the S places of the response read.
        vectors: [S, d] float32.
        term: how the vectors depend on the prompt, if they do.
    """

    card: DirectionCard
    sites: tuple[Site, ...]
    vectors: Tensor
    term: PromptTerm | None = None

    @property
    def id(self) -> str:
        """The name under which requests ask for it."""
        return self.card.id

    @property
    def digest(self) -> str:
        """Of its content."""
        return self.card.digest

    @cached_property
    def reads(self) -> tuple[Site, ...]:
        """Every place it reads: those of the response, then those of the prompt."""
        return self.sites + (self.term.sites if self.term else ())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers by name, as they are stored."""
        if self.term is None:
            return {"vectors": self.vectors}
        term = {"probes": self.term.probes, "offsets": self.term.offsets, "modulation": self.term.vectors}
        return {"vectors": self.vectors} | term

    def scores(self, activations: Tensor) -> Tensor:
        """Raw scores of n responses from their [n, S + G, d] activations at `reads`: [n], higher is safer."""
        exact = activations.double()
        responses = exact[:, : len(self.sites)].flatten(1)
        projections = responses @ self._vectors.to(exact)
        if self.term is None:
            return projections[:, 0]
        values = self.term.values(exact[:, len(self.sites) :])
        return projections[:, 0] + (projections[:, 1:] * values).sum(dim=1)

    @cached_property
    def _vectors(self) -> Tensor:
        """[S · d, 1 + R] float64: v₀ and every v_r."""
        every = [self.vectors[None]] if self.term is None else [self.vectors[None], self.term.vectors]
        return torch.cat(every).double().flatten(1).T.contiguous()

    def calibrate(self, raw_margin: float) -> float:
        """Log-odds that the response with the higher score is the safer one; the raw margin where uncalibrated."""
        return raw_margin if self.card.slope is None else raw_margin * self.card.slope

    def level(self, margin: float) -> int | None:
        """How many of the level edges a margin reaches; None where there are none."""
        return bisect_right(self.card.level_edges, margin) if self.card.level_edges else None


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
    term: PromptTerm | None = None,
) -> SafetyDirection:
    """A direction made now, of which nothing is known yet; `known` adds what is measured.

    Args:
        direction_id: its name.
        sites: S places read.
        vectors: [S, d]; scaled as the recipe wants raw scores to be.
        model: name, revision and template digest of the annotator.
        recipe: how it was made.
        settings: with what.
        term: how it depends on the prompt.

    Raises:
        UnfitData: the vectors are zero or not finite.
    """
    vectors = vectors.detach().float().cpu().contiguous()
    if not torch.isfinite(vectors).all() or not vectors.any():
        raise UnfitData("the activations give no direction: it is zero or not finite")
    name, revision, template = model
    card = DirectionCard(
        id=direction_id,
        digest="",
        model=name,
        model_revision=revision,
        template=template,
        sites=_cards(sites),
        prompt_sites=_cards(term.sites) if term else [],
        slope=None,
        recipe=recipe,
        settings=settings,
        unreliable=True,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )
    return known(SafetyDirection(card, sites, vectors, term))


def known(direction: SafetyDirection, **measured: object) -> SafetyDirection:
    """The same direction with more on its card, and the digest that belongs to that."""
    card = DirectionCard.model_validate(direction.card.model_dump() | measured)
    return replace(direction, card=with_digest(card, direction.tensors))


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
    if direction.vectors.shape[1] != width or max(site.layer for site in direction.reads) > depth:
        raise UnusableFile(f"direction {card.id} does not have the shape of {model}")


def _cards(sites: tuple[Site, ...]) -> list[SiteCard]:
    return [SiteCard(layer=site.layer, pooling=site.pooling) for site in sites]

"""Taught models for tests: adapters of random numbers, put on the shelf as training puts them there."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from app.alignments import CARD, Alignments
from app.schemas.alignment import AlignmentCard, AlignmentMethod
from app.schemas.names import Ref
from workers.directions.direction import SafetyDirection, known, new_direction
from workers.engine.annotator import Annotator
from workers.engine.lora import LowRank, modules_of, to_files
from workers.engine.sites import Site


def random_adapter(annotator: Annotator, seed: int = 0, rank: int = 3) -> LowRank:
    """One that is large enough to be seen; the same seed gives the same numbers."""
    source = torch.Generator().manual_seed(seed)
    shapes = {name: part.weight.shape for name, part in annotator.model.named_modules() if hasattr(part, "weight")}
    return LowRank(
        {
            name: (
                torch.randn(rank, shapes[name][1], generator=source) / 8,
                torch.randn(shapes[name][0], rank, generator=source) / 8,
            )
            for name in modules_of(annotator, ("q_proj", "v_proj", "down_proj"), annotator.depth - 1)
        }
    )


def random_alignment(
    annotator: Annotator, name: str = "kinder", method: AlignmentMethod = "rahf-scit", seed: int = 0, **card: Any
) -> tuple[AlignmentCard, dict[str, bytes]]:
    """The card and the parts of an alignment whose models were taught random things."""
    folders = ("taught",) if method == "rahf-scit" else ("preferred", "dispreferred")
    adapters = {folder: random_adapter(annotator, seed + i) for i, folder in enumerate((*folders, "aligned"))}
    parts = {
        f"{folder}/{file}": content
        for folder, adapter in adapters.items()
        for file, content in to_files(adapter, annotator.name).items()
    }
    return sealed(
        AlignmentCard(
            id=name,
            digest="",
            method=method,
            model=annotator.name,
            model_revision=annotator.revision,
            template=annotator.template.digest,
            blocks=[1],
            taught_revisions=[f"{annotator.revision}+{adapters[folder].digest}" for folder in folders],
            files=sorted(parts),
            slope=0.5,
            level_edges=[-0.5, 0.0, 0.5],
            unreliable=False,
            created="2026-01-01T00:00:00+00:00",
            version="0",
        ).model_copy(update=card),
        parts,
    )


def sealed(card: AlignmentCard, parts: dict[str, bytes]) -> tuple[AlignmentCard, dict[str, bytes]]:
    """Card and parts under a digest of what they are now."""
    content = b"".join(parts[name] for name in sorted(parts)) + card.model_dump_json(exclude={"digest"}).encode()
    made = card.model_copy(update={"digest": f"sha256:{hashlib.sha256(content).hexdigest()}"})
    return made, parts | {CARD: made.model_dump_json().encode()}


def put(shelf: Alignments, annotator: Annotator, name: str = "kinder", /, **given: Any) -> AlignmentCard:
    """Put a random alignment on the shelf."""
    card, parts = random_alignment(annotator, name, **given)
    shelf.publish(card.id, card.digest, parts)
    return card


def ref_to(card: AlignmentCard) -> Ref:
    """What cards and chunks call an alignment."""
    return Ref(id=card.id, digest=card.digest)


def taught_direction(
    annotator: Annotator, alignment: AlignmentCard, name: str = "kindly", sites: Sequence[Site] = (), seed: int = 0
) -> SafetyDirection:
    """A random direction that reads an alignment's first taught model."""
    places = tuple(sites) or (Site(2, "mean"), Site(1, "end_of_turn"))
    vectors = torch.randn(len(places), annotator.width, generator=torch.Generator().manual_seed(seed))
    model = (annotator.name, alignment.taught_revisions[0], annotator.template.digest)
    made = new_direction(name, places, vectors, model=model, recipe="contrast", settings={})
    return known(made, slope=1.0, alignment=ref_to(alignment).model_dump())

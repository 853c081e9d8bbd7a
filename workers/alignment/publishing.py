"""A finished run as what is published of it: an alignment with its files, and a direction that names it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import torch

from app import __version__
from app.alignments import CARD, CURVES, REPORT, Alignments
from app.registry import Registry
from app.schemas.alignment import AlignmentCard, AlignmentMethod, AlignmentReport, AlignmentSettings
from app.schemas.names import Ref
from app.schemas.pairs import Pair
from workers.alignment.batches import Showing, Shown, both
from workers.alignment.calibration import FEWEST, Calibration, calibrate, families_of, refuse_too_few
from workers.alignment.contrast import contrast_direction
from workers.alignment.margins import Contrast, Scored
from workers.alignment.run import Run, divided, instructions_of
from workers.alignment.stages import products
from workers.directions.balance import balance
from workers.directions.direction import SafetyDirection, Setting, known
from workers.directions.publishing import parts_of
from workers.directions.reporting import bare_report
from workers.engine.annotator import Annotator
from workers.engine.errors import PairRefused

PROTOCOL = (
    "the model was not taught with these pairs; one slope is fitted on their labels, "
    "the calibration error is five-fold over prompts"
)

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Product:
    """What a run has made.

    Attributes:
        card: of the alignment.
        report: how that went.
        folder: where its files are.
        direction: reads the activations of the taught model.
    """

    card: AlignmentCard
    report: AlignmentReport
    folder: Path
    direction: SafetyDirection

    @property
    def parts(self) -> dict[str, bytes | Path]:
        """Files of the alignment by their paths, as its shelf takes them."""
        card = self.card.model_dump_json(indent=1).encode()
        return {name: self.folder / name for name in self.card.files} | {CARD: card}

    @cached_property
    def direction_parts(self) -> dict[str, bytes]:
        """Those of the direction."""
        return parts_of(self.direction, bare_report(self.direction))


def course(
    annotator: Annotator, pairs: Sequence[Pair], method: AlignmentMethod, settings: AlignmentSettings
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to teach with, and those of other prompts, which are enough to calibrate on: known before hours are spent.

    Raises:
        UnfitData: they are not.
    """
    taught_with, others = divided(pairs, settings.share, settings.seed)
    showing = Showing(annotator.template, instructions_of(method), annotator.template.window, None)
    refuse_too_few(sum(1 for _ in islice(_readable(showing, others), FEWEST)))
    return taught_with, others


def product_of(
    run: Run,
    name: str,
    *,
    note: Mapping[str, Setting] = MappingProxyType({}),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Product:
    """Measure what a finished run has made; `run.others` are read.

    Args:
        run: all of whose stages are finished.
        name: of alignment and direction.
        note: what else to put among the settings of their cards.
        progress: told how many readings of how many are done, those of the balance set included; may raise to end it.

    Raises:
        UnfitData: too few of the pairs can be read, or the patterns are zero.
    """
    report, pairs, taught = run.report(), run.others, run.taught
    total = 2 * len(pairs) + len(balance().pairs)
    margins, unread = _margins(run, lambda done: progress(min(done, len(pairs)), total))
    card = _card(run, report, name, margins, {"pairs": len(run.pairs), "skipped": unread, **note})
    direction = contrast_direction(
        taught[0],
        run.collect().mean(),
        run.blocks,
        pairs,
        name,
        cache=run.folder,
        note={"alignment_method": run.method, **note},
        progress=lambda done, _total: progress(len(pairs) + done, total),
    )
    made_with = Ref(id=card.id, digest=card.digest)
    # A model all of whose weights were trained is called by the folder that it was loaded from.
    return Product(
        card, report, run.folder, known(direction, model=run.annotator.name, alignment=made_with.model_dump())
    )


def publish(product: Product, alignments: Alignments, directions: Registry) -> None:
    """Store an alignment, and then the direction that is of no use without it."""
    alignments.publish(product.card.id, product.card.digest, product.parts)
    directions.publish(product.direction.id, product.direction.digest, product.direction_parts)


def _margins(run: Run, progress: Callable[[int], None]) -> tuple[Calibration, int]:
    """How well the taught model's own margins read the other pairs, and how many of these it cannot read."""
    contrast = Contrast.of_scit(*run.taught) if run.method == "rahf-scit" else Contrast.of_dual(*run.taught)
    found = contrast.scores(both(run.others), progress=progress)
    read = [(pair, one.scores) for pair, one in zip(run.others, found, strict=True) if isinstance(one, Scored)]
    refuse_too_few(len(read))
    margins = torch.stack([scores[0] - scores[1] for _, scores in read])
    return calibrate(margins, families_of([pair for pair, _ in read]), PROTOCOL), len(run.others) - len(read)


def _card(
    run: Run, report: AlignmentReport, name: str, margins: Calibration, settings: dict[str, Setting]
) -> AlignmentCard:
    folders = {stage.name for stage in report.stages} - {"patterns"}
    files = [f"{folder}/{file}" for folder in folders for file in products(run.folder / folder)]
    card = AlignmentCard(
        id=name,
        digest="",
        method=run.method,
        model=report.model,
        model_revision=report.model_revision,
        template=report.template,
        blocks=report.blocks,
        taught_revisions=report.taught_revisions,
        files=sorted([*files, REPORT, CURVES]),
        settings=settings,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        **margins.on_card,
    )
    return card.model_copy(update={"digest": digest_of(card, run.folder)})


def digest_of(card: AlignmentCard, folder: Path) -> str:
    """`sha256:` digest over a card, its own digest left out, and its files in the order of their paths."""
    content = hashlib.sha256(json.dumps(card.model_dump(exclude={"digest"}), sort_keys=True).encode())
    for name in card.files:
        own = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while block := file.read(_BLOCK):
                own.update(block)
        content.update(f"{name} {own.hexdigest()}\n".encode())
    return "sha256:" + content.hexdigest()


def _readable(showing: Showing, pairs: Sequence[Pair]) -> Iterator[Shown]:
    for item in both(pairs):
        with suppress(PairRefused):
            yield showing.show(item)

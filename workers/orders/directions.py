"""Orders of POST /directions."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.registry import Registry
from app.schemas.fit import FitAnswer, FitRequest
from workers.directions.fit import fit
from workers.directions.publishing import parts_of
from workers.engine.annotator import Annotator
from workers.orders.order import Made, Progress, Step, put_by
from workers.registry import HeldDirections


@dataclass(frozen=True)
class DirectionOrder:
    """A direction to fit.

    Attributes:
        request: what of, and how.
        annotator: whose activations are read.
        directions: what this worker holds; the new one goes into its store.
        cache: folder of what is kept between fits.
    """

    request: FitRequest
    annotator: Annotator
    directions: HeldDirections
    cache: Path

    @property
    def shelves(self) -> tuple[Registry]:
        """The directions of the artifact store."""
        return (self.directions.registry,)

    @property
    def id(self) -> str:
        """Of the new direction."""
        return self.request.id

    @property
    def replace(self) -> bool:
        """Whether another one may be replaced."""
        return self.request.replace

    def made_by(self, job: str) -> FitAnswer | None:
        """The answer of a job that has published already."""
        card = put_by(job, self.shelves[0], self.id)
        return FitAnswer(id=card.id, digest=card.digest) if card else None

    def make(self, job: str, progress: Progress) -> Made:
        """Fit it, and compare it with the Legend directions that this worker holds.

        Raises:
            UnfitData: the sources give no direction.
        """
        controls = self.directions.made_by("legend")
        fitted = fit(
            self.annotator,
            self.request,
            controls=controls,
            cache=self.cache,
            note={"job": job},
            progress=lambda done, total: progress(Step("read", done, total)),
        )
        card, parts = fitted.direction.card, parts_of(fitted.direction, fitted.report)
        answer = FitAnswer(id=card.id, digest=card.digest)
        return Made(answer, partial(self.shelves[0].publish, card.id, card.digest, parts))

    def published(self) -> None:
        """Hold it from now on."""
        self.directions.refresh()

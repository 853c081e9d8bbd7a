"""Fitting directions inside a running worker, beside its annotation."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.artifacts import StoreUnreachable
from app.registry import DirectionMissing
from app.schemas.directions import DirectionCard
from app.schemas.fit import FitRequest
from workers.directions.errors import UnfitData
from workers.directions.fit import fit
from workers.directions.publishing import parts_of
from workers.engine.annotator import Annotator
from workers.registry import HeldDirections

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_NICENESS = 10


class Interrupted(Exception):
    """The worker is to stop, or the job is over; the fit is given up."""


@dataclass(frozen=True)
class Trainer:
    """Makes directions.

    Attributes:
        annotator: whose activations are read.
        directions: where a new direction goes.
        announce: tells everybody what is held now.
        stop: set when the worker is to end.
        cache: folder of what is kept between fits.
    """

    annotator: Annotator
    directions: HeldDirections
    announce: Callable[[], None]
    stop: threading.Event
    cache: Path

    def fit(self, request: FitRequest, job: str, progress: Callable[[int, int], bool]) -> DirectionCard:
        """Make and publish a direction; from then on this worker holds it, and others find it in the store.

        Args:
            request: what of, and how.
            job: id of the job; a job whose worker died after publishing is not fitted twice.
            progress: told about twice a second how far it is; answers False once nobody wants the direction any more.

        Raises:
            UnfitData: the sources give no direction, or the id was taken meanwhile.
            Interrupted: the worker is to end.
        """
        if (known := self._known(request.id)) is not None and known.settings.get("job") == job:
            return known
        self._refuse_taken(request)
        _yield_to_annotation()
        last = 0.0

        def step(done: int, total: int) -> None:
            nonlocal last
            if self.stop.is_set():
                raise Interrupted
            if time.monotonic() - last >= _PROGRESS_SECONDS or done == total:
                last = time.monotonic()
                if not progress(done, total):
                    raise Interrupted

        controls = self.directions.made_by("legend")
        fitted = fit(self.annotator, request, controls=controls, cache=self.cache, note={"job": job}, progress=step)
        self._refuse_taken(request)
        card, parts = fitted.direction.card, parts_of(fitted.direction, fitted.report)
        while not self._published(card, parts):
            if self.stop.wait(_RETRY_SECONDS):
                raise Interrupted
        self.announce()
        return card

    def _known(self, direction_id: str) -> DirectionCard | None:
        with suppress(DirectionMissing):
            return self.directions.registry.card(direction_id)
        return None

    def _refuse_taken(self, request: FitRequest) -> None:
        if not request.replace and self.directions.registry.holds(request.id):
            raise UnfitData(f"a direction called {request.id} has come into being meanwhile")

    def _published(self, card: DirectionCard, parts: dict[str, bytes]) -> bool:
        """Store and hold a direction; False while the store is away: what was fitted is not thrown away for that."""
        try:
            self.directions.registry.publish(card.id, card.digest, parts)
            self.directions.refresh()
        except StoreUnreachable as error:
            log.warning("%s", error)
            return False
        return True


def _yield_to_annotation() -> None:
    """On Linux, where niceness belongs to a thread, let threads that answer requests go first."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, me)))

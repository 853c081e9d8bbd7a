"""Fitting directions inside a running worker, beside its annotation."""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.schemas.directions import DirectionCard
from app.schemas.fit import FitRequest
from workers.directions.errors import UnfitData
from workers.directions.fit import fit
from workers.directions.publishing import parts_of
from workers.engine.annotator import Annotator
from workers.registry import HeldDirections

_PROGRESS_SECONDS = 0.5
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
        registry = self.directions.registry
        if request.id in registry.current() and (card := registry.card(request.id)).settings.get("job") == job:
            return card
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

        controls = [held for held in self.directions.all().values() if held.card.recipe == "legend"]
        fitted = fit(self.annotator, request, controls=controls, cache=self.cache, note={"job": job}, progress=step)
        if not request.replace and request.id in registry.current():
            raise UnfitData(f"a direction called {request.id} has come into being meanwhile")
        card = fitted.direction.card
        registry.publish(card.id, card.digest, parts_of(fitted))
        self.directions.refresh()
        self.announce()
        return card


def _yield_to_annotation() -> None:
    """On Linux, where niceness belongs to a thread, let threads that answer requests go first."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, me)))

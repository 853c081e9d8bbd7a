"""The life of a training job inside a running worker, beside its annotation; `workers.orders` has what is made."""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from app.artifacts import StoreUnreachable
from app.schemas.fit import FitRequest
from app.schemas.jobs import JobKind
from app.schemas.training import AdapterTask, AlignmentTask, RewardTask
from workers.engine.accelerator import watched
from workers.engine.annotator import Annotator
from workers.orders.adapters import AdapterOrder
from workers.orders.alignments import AlignmentOrder
from workers.orders.directions import DirectionOrder
from workers.orders.order import Made, Order, Progress, Step, put_by
from workers.orders.rewards import Base, RewardOrder
from workers.registry import Holdings

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_NICENESS = 10
_Task = AdapterTask | AlignmentTask | RewardTask
_TASK: TypeAdapter[_Task] = TypeAdapter(_Task)


class Interrupted(Exception):
    """The worker is to stop, or the job is over; the work is given up."""


class Taken(Exception):
    """The id was free when the job was accepted, and is not any more."""


@dataclass(frozen=True)
class Trainer:
    """Carries out orders.

    Attributes:
        annotator: whose activations and weights they use.
        holdings: what is held; its store is the one that everything goes to.
        announce: tells everybody what is held now.
        stop: set when the worker is to end.
        cache: folder of what is kept between fits.
        base: what reward models are made of.
    """

    annotator: Annotator
    holdings: Holdings
    announce: Callable[[], None]
    stop: threading.Event
    cache: Path
    base: Base

    def order(self, kind: JobKind, payload: bytes) -> Order:
        """What the payload of a job of this kind asks for."""
        if kind == "direction":
            request = FitRequest.model_validate_json(payload)
            return DirectionOrder(request, self.annotator, self.holdings.directions, self.cache)
        task = _TASK.validate_json(payload)
        if isinstance(task, AlignmentTask):
            return AlignmentOrder(task, self.annotator, self.holdings, self.runs)
        if isinstance(task, RewardTask):
            return RewardOrder(task, self.base, self.holdings, self.runs)
        return AdapterOrder(task, self.annotator, self.holdings)

    def carry_out(self, order: Order, job: str, progress: Callable[[Step], bool]) -> BaseModel:
        """Make and publish what is ordered; returns the answer to the job.

        Args:
            order: what to make.
            job: id of the job; a job whose worker died after publishing is not worked on twice.
            progress: told about twice a second how far it is; answers False once nobody wants it any more.

        Raises:
            Taken: the id was taken meanwhile.
            Interrupted: the worker is to end, or nobody wants it.
            DeviceLost: the device failed, and with it the worker.
        """
        if (known := order.made_by(job)) is not None:
            return known
        _refuse_taken(order, job)
        _yield_to_annotation()
        with watched():
            made = order.make(job, self._stepper(progress))
        _refuse_taken(order, job)
        while not _published(order, made):
            if self.stop.wait(_RETRY_SECONDS):
                raise Interrupted
        self.announce()
        return made.answer

    def sweep(self, is_over: Callable[[str], bool]) -> None:
        """Remove what was kept of jobs that are over: what came of them is in the store, or nobody wants it."""
        for folder in self.runs.glob("*"):
            if is_over(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def runs(self) -> Path:
        """Folders of work that goes on where it was when its worker died, called by their jobs."""
        return self.cache / "runs"

    def _stepper(self, progress: Callable[[Step], bool]) -> Progress:
        """What work calls at every step: passes on some of that, and ends it when it is to end."""
        last, stage = 0.0, ""

        def note(step: Step) -> None:
            nonlocal last, stage
            if self.stop.is_set():
                raise Interrupted
            if time.monotonic() - last >= _PROGRESS_SECONDS or step.done == step.total or step.stage != stage:
                last, stage = time.monotonic(), step.stage
                if not progress(step):
                    raise Interrupted

        return note


def _refuse_taken(order: Order, job: str) -> None:
    """Refuse to replace what is there, unless the job put it there and its worker died before it was done with that."""
    for shelf in order.shelves:
        if not order.replace and shelf.holds(order.id) and put_by(job, shelf, order.id) is None:
            raise Taken(f"another {shelf.noun} called {order.id} has come into being meanwhile")


def _published(order: Order, made: Made) -> bool:
    """Store what was made; False while the store is away: it is not thrown away for that."""
    try:
        made.publish()
        order.published()
    except StoreUnreachable as error:
        log.warning("%s", error)
        return False
    return True


def _yield_to_annotation() -> None:
    """On Linux, where niceness belongs to a thread, let threads that answer requests go first."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, me)))

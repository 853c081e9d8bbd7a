"""The directions that a worker holds: loaded from the artifact store, kept up to date while it runs."""

import json
import logging
import threading
from collections.abc import Mapping

from app.registry import CARD, REPORT, TENSORS, DirectionMissing, Registry
from app.schemas.chunk import Ref
from app.schemas.directions import DirectionCard
from app.schemas.report import DirectionReport
from workers.directions.direction import SafetyDirection, check_fits
from workers.directions.errors import DirectionError
from workers.directions.files import SHIPPED, SHIPPED_DEFAULTS, from_files, from_folder
from workers.directions.publishing import parts_of
from workers.engine.annotator import Annotator

log = logging.getLogger(__name__)


class UnknownDirection(Exception):
    """No such direction is in the store, or it does not fit this annotator."""


class HeldDirections:
    """Directions by id and digest, for one annotator.

    Args:
        registry: the artifact store's directions.
        annotator: what they must fit.
    """

    def __init__(self, registry: Registry, annotator: Annotator) -> None:
        self.registry = registry
        self._annotator = annotator
        self._held: dict[str, SafetyDirection] = {}
        self._refused: dict[str, str] = {}
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()

    def refresh(self) -> bool:
        """Hold what the store holds now and this annotator can use; True if that changed anything.

        The store is asked outside the lock: while it is slow, what is held can be used and announced.
        """
        with self._refreshing:
            current = self.registry.current()
            before = {name: direction.card.digest for name, direction in self.all().items()}
            new = {
                name: self._take(name, digest)
                for name, digest in current.items()
                if before.get(name) != digest and self._refused.get(name) != digest
            }
            with self._lock:
                for name in self._held.keys() - current.keys():
                    del self._held[name]
                for name, direction in new.items():
                    self._held.pop(name, None)
                    if direction is not None:
                        self._held[name] = direction
                return before != {name: direction.card.digest for name, direction in self._held.items()}

    def get(self, ref: Ref) -> SafetyDirection:
        """A direction of exactly this content, from the store if it is not held yet.

        Raises:
            UnknownDirection: it has been deleted, is damaged or was made for something else.
        """
        held = self.all().get(ref.id)
        if held is not None and held.card.digest == ref.digest:
            return held
        try:
            return self._load(ref.id, ref.digest)
        except DirectionMissing:
            raise UnknownDirection(f"direction {ref.id} was deleted while the job used it") from None
        except DirectionError as error:
            raise UnknownDirection(str(error)) from error

    def cards(self) -> list[DirectionCard]:
        """Cards of what is held."""
        return [direction.card for direction in self.all().values()]

    def all(self) -> Mapping[str, SafetyDirection]:
        """What is held, by id."""
        with self._lock:
            return dict(self._held)

    def made_by(self, recipe: str) -> list[SafetyDirection]:
        """What is held and was made by a recipe."""
        return [direction for direction in self.all().values() if direction.card.recipe == recipe]

    def _take(self, name: str, digest: str) -> SafetyDirection | None:
        try:
            return self._load(name, digest)
        except DirectionMissing as error:
            log.warning("not loaded now: %s", error)
        except DirectionError as error:
            self._refused[name] = digest
            log.warning("not loaded: %s", error)
        return None

    def _load(self, name: str, digest: str) -> SafetyDirection:
        files = {part: self.registry.part(name, digest, part) for part in (CARD, TENSORS)}
        direction = from_files(name, files)
        if (direction.id, direction.card.digest) != (name, digest):
            raise DirectionMissing(f"what is stored as {name} is {direction.id} of another digest")
        check_fits(
            direction,
            model=self._annotator.name,
            revision=self._annotator.revision,
            template=self._annotator.template.digest,
            depth=self._annotator.depth,
            width=self._annotator.width,
        )
        return direction


def publish_shipped(registry: Registry, annotator: Annotator) -> None:
    """Put the directions that come with the service and fit this annotator into the store, unless it has known them.

    One of them becomes the default of this annotator, unless it has one.
    """
    for folder in sorted(path.parent for path in SHIPPED.glob(f"*/{CARD}")):
        card = DirectionCard.model_validate_json((folder / CARD).read_bytes())
        fits = (card.model_revision, card.template) == (annotator.revision, annotator.template.digest)
        if fits and not registry.knows(card.id):
            direction = from_folder(folder)
            report = DirectionReport.model_validate_json((folder / REPORT).read_bytes())
            registry.publish(card.id, card.digest, parts_of(direction, report))
    default = json.loads(SHIPPED_DEFAULTS.read_bytes()).get(annotator.revision)
    if default and registry.holds(default) and annotator.revision not in registry.defaults():
        registry.set_default(annotator.revision, default)

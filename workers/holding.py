"""What a worker holds of a shelf of the artifact store: loaded from it, kept up to date while the worker runs."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from app.schemas.names import Ref
from app.shelf import Missing, Shelf

log = logging.getLogger(__name__)

Held = TypeVar("Held")


class _Digested(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def digest(self) -> str: ...


Stored = TypeVar("Stored", bound=_Digested)


class NotHeld(Exception):
    """What a chunk asks for is not in the store, or does not fit this annotator."""


@dataclass(frozen=True)
class _Kept(Generic[Held]):
    digest: str
    thing: Held


class Holding(Generic[Held]):
    """Things of one shelf by id and digest.

    Args:
        shelf: where they are.
        load: reads one by id and digest.
        unusable: what `load` raises for one that is damaged or was made for something else.
    """

    def __init__(self, shelf: Shelf, load: Callable[[str, str], Held], unusable: type[Exception]) -> None:
        self._shelf = shelf
        self._load = load
        self._unusable = unusable
        self._held: dict[str, _Kept[Held]] = {}
        self._refused: dict[str, str] = {}
        self._said: set[tuple[str, str, str]] = set()
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return self._shelf.noun

    def refresh(self) -> bool:
        """Hold what the store holds now and this annotator can use; True if that changed anything.

        The store is asked outside the lock: while it is slow, what is held can be used and announced.
        """
        with self._refreshing:
            current = self._shelf.current()
            before = self.digests()
            new = {
                name: self._take(name, digest)
                for name, digest in current.items()
                if before.get(name) != digest and self._refused.get(name) != digest
            }
            useless = {name for name, thing in self.all().items() if not self._still_usable(thing)}
            with self._lock:
                for name in (self._held.keys() - current.keys()) | useless:
                    del self._held[name]
                for name, kept in new.items():
                    self._held.pop(name, None)
                    if kept is not None:
                        self._held[name] = kept
            return before != self.digests()

    def _still_usable(self, _thing: Held) -> bool:
        """Whether something held can be used, as far as that depends on something else in the store."""
        return True

    def get(self, ref: Ref) -> Held:
        """The thing of exactly this content, from the store if it is not held yet.

        Raises:
            NotHeld: it has been deleted, is damaged or was made for something else.
        """
        with self._lock:
            kept = self._held.get(ref.id)
        if kept is not None and kept.digest == ref.digest:
            return kept.thing
        try:
            return self._load(ref.id, ref.digest)
        except Missing:
            raise NotHeld(f"{self.noun} {ref.id} was deleted while the job used it") from None
        except self._unusable as error:
            raise NotHeld(str(error)) from error

    def all(self) -> Mapping[str, Held]:
        """What is held, by id."""
        with self._lock:
            return {name: kept.thing for name, kept in self._held.items()}

    def digests(self) -> dict[str, str]:
        """Digest of what is held, by id."""
        with self._lock:
            return {name: kept.digest for name, kept in self._held.items()}

    def _take(self, name: str, digest: str) -> _Kept[Held] | None:
        try:
            return _Kept(digest, self._load(name, digest))
        except (Missing, NotHeld) as error:
            self._say_once(name, digest, f"not loaded now: {error}")
        except self._unusable as error:
            self._refused[name] = digest
            self._say_once(name, digest, f"not loaded: {error}")
        return None

    def _say_once(self, name: str, digest: str, reason: str) -> None:
        """What is missing now may come, and is looked for every time; that is no news."""
        if (name, digest, reason) not in self._said:
            self._said.add((name, digest, reason))
            log.warning("%s", reason)


def stored(
    shelf: Shelf, name: str, digest: str, parts: tuple[str, ...], made_of: Callable[[str, Mapping[str, bytes]], Stored]
) -> Stored:
    """What lies on a shelf under a name and a digest; missing if it says that it is something else."""
    thing = made_of(name, {part: shelf.part(name, digest, part) for part in parts})
    if (thing.id, thing.digest) != (name, digest):
        raise shelf.missing(f"what is stored as {name} is {thing.id} of another digest")
    return thing

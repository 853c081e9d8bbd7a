"""What an order is, whatever it is of; the life of its job is `workers.training`'s."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from app.schemas.jobs import JobStage
from app.shelf import CardShelf, Missing


@dataclass(frozen=True)
class Step:
    """How far an order is.

    Attributes:
        stage: what it is at.
        done, total: steps of that stage.
        loss: of the last one, where it has one.
    """

    stage: JobStage
    done: int
    total: int
    loss: float | None = None


Progress = Callable[[Step], None]
"""Told of every step; may raise to end the work."""

Card = TypeVar("Card", bound=BaseModel)


@dataclass(frozen=True)
class Made:
    """What came of an order.

    Attributes:
        answer: what its job answers.
        publish: puts it on the order's shelves; may be called again after it failed.
    """

    answer: BaseModel
    publish: Callable[[], None]


class Order(Protocol):
    """Something to make and to put on shelves."""

    @property
    def shelves(self) -> Sequence[CardShelf[Any]]:
        """Where it goes."""

    @property
    def id(self) -> str:
        """Under which id."""

    @property
    def replace(self) -> bool:
        """Whether something else of that id may be replaced."""

    def made_by(self, job: str) -> BaseModel | None:
        """The answer of this job if it has published already: its worker died just after that."""

    def make(self, job: str, progress: Progress) -> Made:
        """Make it, with the job noted in it."""

    def published(self) -> None:
        """Called as soon as it is stored, before anybody is told."""


def put_by(job: str, shelf: CardShelf[Card], name: str) -> Card | None:
    """The card under an id, if it was this job that put it there."""
    try:
        card = shelf.card(name)
    except Missing:
        return None
    return card if card.model_dump()["settings"].get("job") == job else None

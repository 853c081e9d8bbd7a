"""What an order is, whatever it is of; the life of its job is `workers.training`'s."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from app.shelf import Shelf

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Made:
    """What came of an order.

    Attributes:
        answer: what its job answers.
        digest: of the content.
        parts: the files to store.
    """

    answer: BaseModel
    digest: str
    parts: dict[str, bytes]


class Order(Protocol):
    """Something to make and to put on a shelf."""

    @property
    def shelf(self) -> Shelf:
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
        """Make it, with the job noted in it; `progress` may raise to end that."""

    def published(self) -> None:
        """Called as soon as it is stored, before anybody is told."""

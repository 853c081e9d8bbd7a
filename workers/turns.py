"""How work is shared out: what is urgent, and turns at what keeps every core busy."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Manner:
    """How a chunk is worked on.

    Attributes:
        urgent: whether somebody waits for it, so that it overtakes what nobody waits for.
        go_on: called between items where each takes long; raises to end the work.
    """

    urgent: bool = True
    go_on: Callable[[], None] = lambda: None


URGENT = Manner()
"""To its end, before what nobody waits for."""


class Turns:
    """One at a time, and who is urgent before who is not."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._busy = False
        self._urgent = 0

    @contextmanager
    def turn(self, *, urgent: bool) -> Iterator[None]:
        """Wait for a turn, and have it inside this block."""
        with self._free:
            self._urgent += urgent
            try:
                self._free.wait_for(lambda: not self._busy and (urgent or not self._urgent))
            finally:
                self._urgent -= urgent
            self._busy = True
        try:
            yield
        finally:
            with self._free:
                self._busy = False
                self._free.notify_all()


ASKING = Turns()
"""At asking the annotator, or what it was taught to be, which keeps every core busy, beside what others read."""

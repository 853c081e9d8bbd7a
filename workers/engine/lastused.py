"""The few things that were used last; what takes memory and time to make is neither made often nor kept for ever."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class LastUsed(Generic[Thing]):
    """Things by name, for any thread.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: dict[str, Thing] = {}
        self._using = threading.Lock()
        self._making = threading.Lock()

    def find(self, name: str) -> Thing | None:
        """The thing of a name if it is kept; it is the one used last from now on."""
        with self._using:
            found = self._things.pop(name, None)
            if found is not None:
                self._things[name] = found
            return found

    def get(self, name: str, make: Callable[[], Thing]) -> Thing:
        """The thing of a name, made if it is not kept; while one is made, those that are kept can be had."""
        if (kept := self.find(name)) is not None:
            return kept
        with self._making:
            kept = self.find(name)  # somebody else may have made it meanwhile
            return self._keep(name, make()) if kept is None else kept

    def _keep(self, name: str, thing: Thing) -> Thing:
        with self._using:
            self._things[name] = thing
            while len(self._things) > self._most:
                del self._things[next(iter(self._things))]
        return thing

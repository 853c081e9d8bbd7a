"""A way of working in a process of its own, so that its threads, its memory and its peak are its own."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_held: list[Any] = []


class Apart:
    """An object made and kept in a fresh process; it waits between calls and costs nothing then.

    Args:
        make: a function or class at the top of a module.
        arguments: what it is called with there.
    """

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self.pid: int = self._pool.submit(_hold, make, arguments).result()

    def seconds(self, method: str, *arguments: object) -> float:
        """How long one call of the object's method takes, without the way there and back."""
        return self._pool.submit(_timed, method, arguments).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def peak_mib(pid: int) -> float:
    """The most memory in MiB that a process has had resident so far, and what its children hold for themselves now.

    What children share with it is counted once.
    """
    children = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    own = _kib(Path(f"/proc/{pid}/status"), "VmHWM")
    return (own + sum(_kib(Path(f"/proc/{child}/smaps_rollup"), "Private_") for child in children)) / 1024


def _kib(file: Path, field: str) -> int:
    """Sum of the lines of a file of /proc that begin like this."""
    return sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(field))


def _hold(make: Callable[..., object], arguments: tuple[object, ...]) -> int:
    _held.append(make(*arguments))
    return os.getpid()


def _timed(method: str, arguments: tuple[object, ...]) -> float:
    started = time.perf_counter()
    getattr(_held[0], method)(*arguments)
    return time.perf_counter() - started

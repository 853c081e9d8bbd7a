"""How much memory this process takes, and how much there is."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def resident_bytes() -> float:
    """Memory of this process and of those that it has started; what they share is counted once."""
    found = [_proportional_bytes(pid) for pid in _with_children(os.getpid())]
    return sum(found) or float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def available_bytes() -> float:
    """What this process may take: the limit of its container, or what the machine has."""
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        return min(whole, float(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # none, or "max"
        return whole


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    for task in _PROC.glob(f"{pid}/task/*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has ended meanwhile
            continue
        for child in children:
            yield from _with_children(int(child))


def _proportional_bytes(pid: int) -> float:
    """A process' share of the memory it is in; 0 where the kernel does not say."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0.0)

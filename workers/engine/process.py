"""What a process that runs the annotator sets up once, before it loads it."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def set_up(threads: int = 0) -> int:
    """Tune memory and threads of this process for many forward passes on a CPU.

    One pass a core, each on one thread, beats one pass on all cores: nothing waits at barriers, and when other
    processes want the cores too a pass is slowed in proportion, where barriers would slow it tenfold.

    Args:
        threads: cores to use; 0 for all.

    Returns:
        How many passes should run side by side.
    """
    _keep_freed_memory()
    torch.set_num_threads(1)
    return threads or cores()


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container where there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def side_by_side(passes: int, name: str = "pass") -> ThreadPoolExecutor:
    """Threads for `passes` forward passes; one pass alone may use all the threads that torch is set to."""
    if passes == 1:
        return ThreadPoolExecutor(1, name)
    # OpenMP keeps the number of threads per thread: the limit set above does not reach new ones.
    return ThreadPoolExecutor(passes, name, initializer=torch.set_num_threads, initargs=(1,))


def _keep_freed_memory() -> bool:
    """Keep memory that a pass frees for the next pass; False where there is no glibc to tell.

    glibc returns large blocks to the kernel at once and zeroes them anew at the next allocation, which costs a pass
    over a tenth of its time. Arenas of other threads know no such threshold, so all threads share one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 1 << 30}
    return all([mallopt(parameter, value) for parameter, value in wanted.items()])

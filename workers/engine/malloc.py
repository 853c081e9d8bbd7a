"""Memory that a forward pass frees stays with the process.

glibc returns large blocks to the kernel at once and zeroes them anew at the next allocation; on a CPU that costs a
forward pass over a tenth of its time.
"""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next pass; False where there is no glibc to tell."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 32 << 20)) and bool(mallopt(_M_TRIM_THRESHOLD, 1 << 30))

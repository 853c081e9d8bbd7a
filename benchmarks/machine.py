"""What a figure was measured on."""

import os
import platform
from pathlib import Path

import torch

from workers.engine.process import cores

_TELLING = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "sve",
    "bf16",
    "i8mm",
)


def described() -> dict[str, object]:
    """The machine: processor, cores, instructions that matter to matrix products, memory, torch."""
    facts = _cpuinfo(Path("/proc/cpuinfo"))
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "family": " ".join(facts[key] for key in ("cpu family", "model") if key in facts),
        "cores": cores(),
        "instructions": [flag for flag in _TELLING if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpuinfo(path: Path) -> dict[str, str]:
    """What Linux says of its first processor."""
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}

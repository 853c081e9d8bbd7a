"""How many tokens a pass may hold on CUDA devices: as many as free memory takes, measured with passes of two sizes."""

import logging

import torch

from workers.engine.annotator import Annotator
from workers.engine.errors import ModelNotLoaded
from workers.engine.forward import read
from workers.engine.packing import Branch, Group
from workers.engine.sites import Site

log = logging.getLogger(__name__)

_SMALL, _LARGE = 1024, 4096
_LEAST, _MOST = 1024, 32_768
_SHARE = 0.8
_STEP = 256


def find_budget(annotator: Annotator) -> None:
    """Let the budget of an annotator on CUDA devices be what fits into their memory; on a CPU it stays as it is.

    The passes that it takes also choose and compile kernels. Above `_MOST` tokens products gain nothing by more.

    Raises:
        ModelNotLoaded: not even these passes can be made.
    """
    if annotator.device.type != "cuda":
        return
    assumed = annotator.budget.tokens
    try:
        _peaks(annotator, _SMALL)
        small, large = _peaks(annotator, _SMALL), _peaks(annotator, _LARGE)
    except RuntimeError as error:
        first, *_ = str(error).splitlines() or [""]
        raise ModelNotLoaded(f"{annotator.name} cannot be read on {annotator.device}: {first}") from error
    budget = min(tokens_within(_free(device), small[device], large[device]) for device in annotator.devices)
    if annotator.budget.tokens < assumed:
        budget = _LEAST  # memory did not suffice for what was to be measured
    annotator.budget.settle(budget)
    log.info("a pass may hold %d tokens, as free memory on %s goes", budget, ", ".join(map(str, annotator.devices)))


def tokens_within(free: int, small: int, large: int) -> int:
    """How many tokens a pass may hold.

    Args:
        free: bytes that a device has left, of which a part stays free for what else needs some.
        small, large: most bytes that passes of `_SMALL` and `_LARGE` tokens held at once.
    """
    each = max(1.0, (large - small) / (_LARGE - _SMALL))
    fixed = max(0.0, small - each * _SMALL)
    tokens = int((_SHARE * free - fixed) / each)
    return min(max(tokens // _STEP * _STEP, _LEAST), _MOST)


def _peaks(annotator: Annotator, tokens: int) -> dict[torch.device, int]:
    """Most bytes that a pass of so many tokens through all blocks held at once on each device."""
    group = Group((0,) * 128, (Branch((0,) * 64, content=63),) * 2, prompt=128, request=(0, 128))
    before = {}
    for device in annotator.devices:
        before[device] = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    read(annotator, [group] * (tokens // group.size), [Site(annotator.depth - 1, "mean")])
    return {device: torch.cuda.max_memory_allocated(device) - before[device] for device in annotator.devices}


def _free(device: torch.device) -> int:
    """Bytes that no process uses on a device, and those that this one keeps without using them."""
    free, _total = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)

"""Taught models as files, and on the annotator: a low-rank adapter, or a model of its own where all weights changed."""

from collections.abc import Mapping
from pathlib import Path

from workers.alignment.learner import ADAPTER, Learner
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.lora import CONFIG, TENSORS, LowRank, adapted, from_files, joined, taken, to_files
from workers.engine.weights import store

FILES = (CONFIG, TENSORS)
"""Files of an adapter."""


def keep(learner: Learner, base: Annotator, folder: Path, beneath: LowRank | None = None) -> None:
    """Write what a learner has learnt into a folder.

    Args:
        learner: of an adapter, or of all weights.
        base: the annotator that it learnt beside.
        folder: where to.
        beneath: an adapter that `base` has already; what is written adds both to the annotator without any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if learner.source is None:  # of all weights
        store(learner.annotator.model, base.tokenizer, folder, learner.precision)
        return
    learnt = taken(learner.annotator, ADAPTER)
    for name, content in to_files(joined(beneath, learnt) if beneath else learnt, base.name).items():
        (folder / name).write_bytes(content)


def adapter_of(folder: Path) -> LowRank | None:
    """The adapter in a folder; None where there is a whole model.

    Raises:
        UnusableAdapter: it is damaged.
    """
    if not (folder / CONFIG).exists():
        return None
    files: Mapping[str, bytes] = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    return from_files(folder.name, files)


def taught(annotator: Annotator, folder: Path) -> Annotator:
    """The annotator as what is in a folder makes it.

    Raises:
        UnusableAdapter: its adapter is damaged or does not fit.
        ModelNotLoaded: its model cannot be loaded.
    """
    adapter = adapter_of(folder)
    if adapter is not None:
        return adapted(annotator, adapter)
    return load_annotator(
        str(folder), folder, device=str(annotator.device), dtype=annotator.dtype_name, passes=annotator.passes
    )

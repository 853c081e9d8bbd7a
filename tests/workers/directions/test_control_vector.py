"""Directions as control vectors: what llama.cpp finds in the file, what comes back from it, and what is refused."""

import json
import pickle
import struct
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from workers.directions.control_vector import from_control_vector, to_control_vector
from workers.directions.direction import PromptTerm, SafetyDirection, Setting, new_direction
from workers.directions.errors import UnusableFile
from workers.directions.files import to_files
from workers.engine.sites import Site

SITES = (Site(7, "mean"), Site(3, "end_of_turn"), Site(0, "mean"), Site(7, "last"), Site(12, "mean"))
WIDTH = 10  # 40 bytes, which the alignment of 32 does not divide
HEADER = struct.Struct("<4sIQQ")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def direction(*sites: Site, term: PromptTerm | None = None) -> SafetyDirection:
    sites = sites or SITES
    vectors = random(len(sites), WIDTH)
    model = ("Böse 1B", "sha256:weights", "sha256:template")
    settings: dict[str, Setting] = {"lambda": 0.1 + 0.2, "pairs": 3, "paper": True, "layer": None, "data": "böse.jsonl"}
    return new_direction("mine", sites, vectors, model=model, recipe="pairs", settings=settings, term=term)


def with_term() -> SafetyDirection:
    sites = (Site(3, "request"), Site(7, "request"))
    return direction(term=PromptTerm(sites, random(4, len(sites), WIDTH), random(4), random(4, len(SITES), WIDTH)))


def opened(content: bytes, folder: Path) -> GGUFReader:
    (folder / "direction.gguf").write_bytes(content)
    return GGUFReader(folder / "direction.gguf")


def rewritten(path: Path, fields: dict[str, str], tensors: dict[str, torch.Tensor]) -> bytes:
    """A control vector as the gguf package writes one."""
    writer = GGUFWriter(path, "controlvector")
    for key, value in fields.items():
        writer.add_string(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def shaped(*lengths: int) -> str:
    """An empty tensor that claims these lengths."""
    header = json.dumps({"vectors": {"dtype": "F32", "shape": lengths, "data_offsets": [0, 0]}}).encode()
    return b64encode(struct.pack("<Q", len(header)) + header).decode()


def test_each_block_gets_one_tensor_of_the_form_that_llama_cpp_loads(tmp_path: Path) -> None:
    reader = opened(to_control_vector(direction()), tmp_path)
    assert [tensor.name for tensor in reader.tensors] == ["direction.3", "direction.7", "direction.12"]
    assert {tensor.tensor_type for tensor in reader.tensors} == {GGMLQuantizationType.F32}
    assert [tensor.shape.tolist() for tensor in reader.tensors] == [[WIDTH]] * 3


@pytest.mark.parametrize("source", [direction(), with_term()])
def test_a_tensor_is_the_sum_of_the_vectors_read_at_its_block(source: SafetyDirection, tmp_path: Path) -> None:
    vectors = source.vectors.numpy()
    steering = [tensor.data for tensor in opened(to_control_vector(source), tmp_path).tensors]
    np.testing.assert_array_equal(steering, [vectors[1], vectors[0] + vectors[3], vectors[4]])


def test_every_tensor_is_aligned_and_padded_to_the_end_of_the_file(tmp_path: Path) -> None:
    content = to_control_vector(direction())
    tensors = opened(content, tmp_path).tensors
    assert [tensor.data_offset % 32 for tensor in tensors] == [0, 0, 0]
    assert len(content) == tensors[-1].data_offset + 64


def test_the_fields_say_what_it_is_and_for_which_model(tmp_path: Path) -> None:
    reader = opened(to_control_vector(direction()), tmp_path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "Böse 1B"
    assert fields["controlvector.layer_count"] == 3
    assert json.loads(fields["safemargin.card"])["settings"]["data"] == "böse.jsonl"


def test_a_direction_that_reads_only_block_0_cannot_steer() -> None:
    with pytest.raises(UnusableFile, match="mine reads only block 0"):
        to_control_vector(direction(Site(0, "mean"), Site(0, "last")))


@pytest.mark.parametrize("before", [direction(), with_term(), direction(Site(1, "last"))])
def test_a_direction_comes_back_bit_for_bit(before: SafetyDirection) -> None:
    after = from_control_vector("upload", to_control_vector(before))
    assert after.card == before.card
    assert after.reads == before.reads
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())


def test_a_file_that_ends_too_early_or_too_late_is_refused() -> None:
    content = to_control_vector(with_term())
    for damaged in [content + bytes(32), *(content[:end] for end in range(0, len(content), 3))]:
        with pytest.raises(UnusableFile):
            from_control_vector("upload", damaged)


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_a_flipped_bit_is_noticed_or_changes_nothing(bit: int) -> None:
    before = direction(Site(1, "last"))
    content = to_control_vector(before)
    unnoticed = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        try:
            after = from_control_vector("upload", bytes(flipped))
        except UnusableFile:
            continue
        unnoticed += 1
        assert after.card == before.card
        assert torch.equal(after.vectors, before.vectors)
    assert unnoticed < 100  # white space of the JSON in it, and names of fields left empty


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        pickle.dumps(print),
        HEADER.pack(b"GGML", 3, 0, 0),
        HEADER.pack(b"GGUF", 2, 0, 0),
        HEADER.pack(b"GGUF", 3, 2**64 - 1, 2**64 - 1),
        HEADER.pack(b"GGUF", 3, 0, 2**64 - 1) + struct.pack("<Q", 2**64 - 1),
        HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<QsIQ", 1, b"k", 8, 2**63) + b"text",
        HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<QsIIQ", 1, b"k", 9, 9, 2**64 - 1) + bytes(100),
        HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<QsIQ", 1, b"\xff", 8, 0),
    ],
)
def test_what_is_no_control_vector_of_a_direction_is_refused(content: bytes) -> None:
    with pytest.raises(UnusableFile, match="upload: not a control vector of a direction"):
        from_control_vector("upload", content)


@pytest.mark.parametrize("value", [0, 2**31, 2**63, 2**64 - 1])
def test_a_length_that_lies_is_refused_wherever_it_stands(value: int) -> None:
    content = to_control_vector(direction())
    for place in range(8, len(content) - 8):
        lying = content[:place] + struct.pack("<Q", value) + content[place + 8 :]
        if lying != content:
            with pytest.raises(UnusableFile):
                from_control_vector("upload", lying)


def test_a_control_vector_of_another_tool_holds_no_direction(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="not a control vector of a direction"):
        from_control_vector("upload", rewritten(tmp_path / "other.gguf", {}, {"direction.1": random(WIDTH)}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda card, tensors: (card.replace("pairs", "wears"), tensors), "does not match its digest"),
        (lambda card, tensors: (card, tensors[:-16] + "AAAA" + tensors[-12:]), "does not match its digest"),
        (lambda card, tensors: ("{", tensors), "unreadable direction"),
        (lambda card, tensors: ("[" * 100_000, tensors), "unreadable direction"),
        (lambda card, tensors: (card, "no base64!"), "not a control vector of a direction"),
        (lambda card, tensors: (card, b64encode(pickle.dumps(print)).decode()), "unreadable direction"),
        (lambda card, tensors: (card, shaped(2**63, 0)), "unreadable direction"),
        (lambda card, tensors: (card, shaped(1, 0, 2**61, 2**40)), "unreadable direction"),
        (lambda card, tensors: (card, tensors), "not that of the direction it holds"),
    ],
)
def test_fields_that_are_not_those_of_the_tensors_are_refused(
    damage: Callable[[str, str], tuple[str, str]], reason: str, tmp_path: Path
) -> None:
    files = to_files(direction())
    card, tensors = damage(files["direction.json"].decode(), b64encode(files["direction.safetensors"]).decode())
    fields = {"controlvector.model_hint": "tiny", "safemargin.card": card, "safemargin.tensors": tensors}
    content = rewritten(tmp_path / "damaged.gguf", fields, {"direction.3": random(WIDTH)})
    with pytest.raises(UnusableFile, match=f"upload: .*{reason}"):
        from_control_vector("upload", content)


def test_a_layer_beyond_every_model_is_a_number_like_any_other() -> None:
    before = direction(Site(10**40, "mean"))
    assert from_control_vector("upload", to_control_vector(before)).sites == before.sites

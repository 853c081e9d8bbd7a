"""A direction as a control vector: the GGUF file that llama.cpp adds to a residual stream (`--control-vector`).

llama.cpp reads the tensors alone (`common_control_vector_load_one` in common/common.cpp): each is float32 and [d], and
`direction.N` is added to the output of 0-based block N (`llama_adapter_cvec` in src/llama-adapter.cpp). Block 0 cannot
be steered there, and an N that the model has no block for, such as "after the final norm", is ignored.

    general.architecture          controlvector
    controlvector.model_hint      name of the annotator
    controlvector.layer_count     how many tensors follow
    safemargin.card               `direction.json`
    safemargin.tensors            `direction.safetensors` in base64, for GGUF strings are text
    direction.N                   sum of the vectors read at block N, over its poolings

The two files make the way back exact; the tensors are what a language model can use of them: what does not depend on
the prompt. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3, little-endian.
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping
from itertools import accumulate

from app.registry import CARD, TENSORS
from workers.directions.direction import SafetyDirection
from workers.directions.errors import UnusableFile
from workers.directions.files import from_files, to_files

_HEADER = struct.Struct("<4sIQQ")  # magic, version, number of tensors, number of fields
_LENGTH = struct.Struct("<Q")
_TYPE = struct.Struct("<I")
_MAGIC, _VERSION, _ALIGNMENT = b"GGUF", 3, 32
_UINT32, _STRING = 4, 8  # types of a field
_FLOAT32 = 0  # type of a tensor
_CARD_KEY, _TENSORS_KEY = "safemargin.card", "safemargin.tensors"


def to_control_vector(direction: SafetyDirection) -> bytes:
    """A GGUF file that steers a model towards what the direction calls safer, and holds all of it.

    Raises:
        UnusableFile: it reads nothing but block 0, which llama.cpp cannot steer.
    """
    return _encode(direction, to_files(direction))


def from_control_vector(name: str, content: bytes) -> SafetyDirection:
    """Read a direction back, bit for bit.

    Memory and time are linear in the size of the content, whatever lengths it claims. What another tool has rewritten
    is refused, even where it only added a field.

    Args:
        name: what to call it in errors.
        content: `to_control_vector` gave it, or so it claims.

    Raises:
        UnusableFile: a part is missing or damaged, does not match its digest, or steers otherwise than it reads.
    """
    try:
        fields = _fields(content)
        files = {CARD: fields[_CARD_KEY], TENSORS: b64decode(fields[_TENSORS_KEY], validate=True)}
        direction = from_files(name, files)
    except (KeyError, ValueError, struct.error) as error:
        raise UnusableFile(f"{name}: not a control vector of a direction ({type(error).__name__})") from error
    except (RuntimeError, TypeError) as error:  # torch, of an empty tensor whose other lengths overflow
        raise UnusableFile(f"{name}: unreadable direction ({type(error).__name__})") from error
    if _encode(direction, files) != content:
        raise UnusableFile(f"{name}: the control vector is not that of the direction it holds")
    return direction


def _encode(direction: SafetyDirection, files: Mapping[str, bytes]) -> bytes:
    """The control vector of a direction that was stored as these files."""
    steering = _steering(direction)
    fields = [
        _string_field("general.architecture", b"controlvector"),
        _string_field("controlvector.model_hint", direction.card.model.encode()),
        _string(b"controlvector.layer_count") + _TYPE.pack(_UINT32) + struct.pack("<I", len(steering)),
        _string_field(_CARD_KEY, files[CARD]),
        _string_field(_TENSORS_KEY, b64encode(files[TENSORS])),
    ]
    data = [_padded(vector) for vector in steering.values()]
    offsets = accumulate((len(vector) for vector in data), initial=0)
    width = direction.vectors.shape[1]
    infos = [
        _string(f"direction.{layer}".encode()) + struct.pack("<IQIQ", 1, width, _FLOAT32, offset)
        for layer, offset in zip(steering, offsets, strict=False)  # the last offset is the end
    ]
    head = _HEADER.pack(_MAGIC, _VERSION, len(steering), len(fields)) + b"".join(fields + infos)
    return _padded(head) + b"".join(data)


def _steering(direction: SafetyDirection) -> dict[int, bytes]:
    """The [d] float32 numbers to add after each block, in order of blocks; those of one block are added up."""
    sums = {
        site.layer: direction.vectors.new_zeros(direction.vectors.shape[1])
        for site in sorted(direction.sites)
        if site.layer > 0
    }
    if not sums:
        raise UnusableFile(f"direction {direction.id} reads only block 0, which a control vector cannot steer")
    for site, vector in zip(direction.sites, direction.vectors, strict=True):
        if site.layer > 0:
            sums[site.layer] += vector
    return {layer: total.numpy().astype("<f4").tobytes() for layer, total in sums.items()}


def _fields(content: bytes) -> dict[str, bytes]:
    """The text fields of a GGUF file by key.

    Raises:
        ValueError: it is not GGUF, has a field of a kind that control vectors have not, or claims too long a text.
        struct.error: it ends too early.
    """
    magic, version, _, count = _HEADER.unpack_from(content)
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("not GGUF")
    fields: dict[str, bytes] = {}
    at = _HEADER.size
    for _ in range(count):  # a count that lies ends with the content
        key, at = _text(content, at)
        (kind,) = _TYPE.unpack_from(content, at)
        at += _TYPE.size
        if kind == _STRING:
            fields[key.decode()], at = _text(content, at)
        elif kind == _UINT32:
            at += 4
        else:
            raise ValueError("a field of another kind")
    return fields


def _text(content: bytes, at: int) -> tuple[bytes, int]:
    """The text that starts here, and where it ends."""
    start = at + _LENGTH.size
    end = start + _LENGTH.unpack_from(content, at)[0]
    if end > len(content):
        raise ValueError("a text longer than the file")
    return content[start:end], end


def _string_field(key: str, value: bytes) -> bytes:
    return _string(key.encode()) + _TYPE.pack(_STRING) + _string(value)


def _string(text: bytes) -> bytes:
    return _LENGTH.pack(len(text)) + text


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % _ALIGNMENT)

"""The part of an input that is still to be annotated, as a file to upload."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_PIECE = 1 << 16


def remainder(path: Path, done: int) -> Callable[[], Iterator[bytes]] | None:
    """What opens the input with its first `done` lines left empty, so that all others keep their numbers.

    None if it is Parquet, whose rows cannot be left empty.
    """
    with _plain(path) as file:
        if file.read(len(_PARQUET)) == _PARQUET:
            return None
    return lambda: _emptied(path, done)


def _emptied(path: Path, done: int) -> Iterator[bytes]:
    left = done
    with _plain(path) as file:
        while piece := file.read(_PIECE):
            newlines = piece.count(b"\n") if left else 0
            if newlines < left:
                left -= newlines
                continue
            if left:
                piece = b"\n" * done + piece.split(b"\n", left)[left]
                left = 0
            if piece:
                yield piece


def _plain(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")

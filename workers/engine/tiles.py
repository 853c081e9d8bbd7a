"""Which rows of a packed batch attend to which, in as few rectangles as pay.

Prompts and responses are cut into pieces of at most 128 rows, so that little is multiplied which causality hides. The
keys of a piece stand one behind the other, wherever they lie in the packed row, and pieces of about the same size are
multiplied at once, as a tile.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.packing import Group

MULTIPLE = 16
"""The sides of tiles are multiples of this, so that sizes repeat."""

_PIECE = 128
_CALLS = 4096  # scores computed in vain cost as much as the calls of a tile of their own
_MOST_SCORES = 1 << 16


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring rows of one prompt or response: they see its prompt, and its own rows up to themselves.

    Attributes:
        prompt: rows of the prompt that a response follows; of a prompt itself, none.
        own: rows of the prompt or response up to the last row of the piece.
        count: how many rows at the end of `own` are the piece.
    """

    prompt: range
    own: range
    count: int

    @property
    def before(self) -> int:
        """How many keys all rows of the piece see."""
        return len(self.prompt) + len(self.own) - self.count


def pieces(groups: Sequence[Group], *, prompts: bool = True) -> Iterator[Piece]:
    """All rows of a packed batch, or those of its responses alone, in pieces."""
    start = 0
    for group in groups:
        prompt = range(start, start + len(group.prefix))
        start = prompt.stop
        if prompts:
            yield from _cut(range(0), prompt)
        for branch in group.branches:
            own = range(start, start + len(branch.tokens))
            start = own.stop
            yield from _cut(prompt, own)


def _cut(prompt: range, rows: range) -> Iterator[Piece]:
    """Pieces of about the same number of rows."""
    size = _rounded(-(-len(rows) // max(1, -(-len(rows) // _PIECE))))
    for start in range(0, len(rows), size or 1):
        own = rows[: start + size]
        yield Piece(prompt, own, len(own) - start)


def _rounded(size: int) -> int:
    return size + -size % MULTIPLE


@dataclass(frozen=True)
class Tile:
    """b pieces side by side, R queries each, against S keys, among which the queries' own begin at C.

    The keys of a piece with fewer than C before it are padded on the left; all else on the right. As C is a multiple of
    `MULTIPLE`, keys of a piece are added up in the same order whatever else is in its tile, and come to the same sums.

    Attributes:
        pieces: b of them.
        rows, before: R and C, multiples of `MULTIPLE`.
    """

    pieces: Sequence[Piece]
    rows: int
    before: int

    @classmethod
    def of(cls, some: Sequence[Piece]) -> "Tile":
        """Pieces in one tile."""
        before = max(piece.before for piece in some)
        return cls(some, _rounded(max(piece.count for piece in some)), _rounded(before))

    @property
    def shape(self) -> tuple[int, int]:
        """R and S, both multiples of `MULTIPLE`."""
        return self.rows, self.before + self.rows

    @property
    def scores(self) -> int:
        """How many scores a head computes."""
        return len(self.pieces) * self.rows * self.shape[1]

    @property
    def queries(self) -> Tensor:
        """[b, R] rows of the queries; of padding, rows behind them, which may lie behind the end of the batch."""
        return _column(piece.own.stop - piece.count for piece in self.pieces) + torch.arange(self.rows)

    @property
    def real(self) -> Tensor:
        """[b, R] which of the queries are no padding."""
        return torch.arange(self.rows) < _column(piece.count for piece in self.pieces)

    @property
    def keys(self) -> Tensor:
        """[b, S] rows of the keys; of padding, any, which may lie outside the batch."""
        places = torch.arange(self.shape[1]) - self._missing
        length = _column(len(piece.prompt) for piece in self.pieces)
        prompt = _column(piece.prompt.start for piece in self.pieces) + places
        return prompt.where(places < length, _column(piece.own.start for piece in self.pieces) + places - length)

    @property
    def padding(self) -> Tensor | None:
        """[b, c] which of the first c keys pad on the left; None where none does."""
        width = int(self._missing.max())
        return torch.arange(width) < self._missing if width else None

    @property
    def _missing(self) -> Tensor:
        return _column(self.before - piece.before for piece in self.pieces)


def _column(numbers: Iterable[int]) -> Tensor:
    return torch.tensor(list(numbers))[:, None]


def joined(some: Iterable[Piece]) -> list[Tile]:
    """Pieces in tiles, so that what is computed in vain costs less than the calls that are saved."""
    tiles: list[Tile] = []
    for piece in sorted(some, key=lambda piece: (piece.before + piece.count, piece.count)):
        alone = Tile.of([piece])
        if tiles:
            larger = Tile.of([*tiles[-1].pieces, piece])
            if larger.scores <= min(tiles[-1].scores + alone.scores + _CALLS, _MOST_SCORES):
                tiles[-1] = larger
                continue
        tiles.append(alone)
    return tiles

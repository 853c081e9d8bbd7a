"""What is multiplied at once: rows in pieces, pieces in tiles."""

import pytest
import torch

from workers.engine.packing import Branch, Group
from workers.engine.tiles import MULTIPLE, Piece, Tile, joined, pieces


def group(prompt: int, *responses: int) -> Group:
    branches = tuple(Branch(tuple(range(length)), content=length) for length in responses)
    return Group(tuple(range(prompt)), branches, prompt=1, request=(0, 1))


BATCH = [group(300, 20, 150), group(5, 1), group(40, 30, 30, 30)]


def rows(piece: Piece) -> range:
    return piece.own[len(piece.own) - piece.count :]


def test_every_row_of_a_batch_is_in_one_piece() -> None:
    found = [row for piece in pieces(BATCH) for row in rows(piece)]
    assert found == list(range(sum(one.size for one in BATCH)))


def test_rows_of_the_responses_alone_are_those_behind_the_prompts() -> None:
    found = {row for piece in pieces(BATCH, prompts=False) for row in rows(piece)}
    assert found == {*range(300, 470), 475, *range(516, 606)}


def test_long_texts_are_cut_into_pieces_of_about_the_same_size() -> None:
    assert [piece.count for piece in pieces(BATCH)] == [112, 112, 76, 20, 80, 70, 5, 1, 40, 30, 30, 30]


def test_a_piece_sees_its_prompt_and_what_comes_before_it_in_its_own_text() -> None:
    second = list(pieces(BATCH))[5]
    assert (second.prompt, second.own, second.count) == (range(300), range(320, 470), 70)
    assert second.before == 300 + 80


def test_a_tile_has_the_keys_of_each_piece_one_behind_the_other_its_queries_own_at_the_same_place() -> None:
    near, far = Piece(range(2), range(4, 7), 3), Piece(range(10, 14), range(17, 20), 2)
    tile = Tile.of([near, far])
    assert tile.before == 16
    assert tile.shape == (16, 32)
    assert [row[:3] for row in tile.queries.tolist()] == [[4, 5, 6], [18, 19, 20]]
    assert tile.real.sum(dim=1).tolist() == [3, 2]
    assert tile.padding is not None
    assert tile.padding.tolist() == [[True] * 14, [True] * 11 + [False] * 3]
    assert tile.keys[0, 14:19].tolist() == [0, 1, 4, 5, 6]
    assert tile.keys[1, 11:18].tolist() == [10, 11, 12, 13, 17, 18, 19]


def test_pieces_with_a_multiple_of_keys_before_them_need_no_padding_on_the_left() -> None:
    assert Tile.of([Piece(range(16), range(20, 23), 3), Piece(range(16), range(29, 34), 5)]).padding is None


@pytest.mark.parametrize("others", [[], [Piece(range(40), range(60, 63), 3)], [Piece(range(97), range(99, 140), 41)]])
def test_where_a_key_stands_among_those_added_up_depends_on_its_piece_alone(others: list[Piece]) -> None:
    tile = Tile.of([Piece(range(10, 17), range(17, 20), 3), *others])
    (place,) = (tile.keys[0] == 10).nonzero()[:, 0].tolist()
    assert place % MULTIPLE == MULTIPLE - 7


@pytest.mark.parametrize("length", [1, 16, 17, 300])
def test_sides_of_tiles_are_multiples_so_that_sizes_repeat(length: int) -> None:
    for tile in joined(pieces([group(length, length + 3)])):
        assert not any(side % MULTIPLE for side in tile.shape)
        assert tile.queries.shape == tile.real.shape == (len(tile.pieces), tile.shape[0])
        assert tile.keys.shape == (len(tile.pieces), tile.shape[1])


def test_no_piece_is_lost_where_they_are_joined() -> None:
    parts = list(pieces(BATCH))
    found = [piece for tile in joined(parts) for piece in tile.pieces]
    assert sorted(found, key=lambda piece: piece.own.stop) == parts


def test_many_short_responses_are_one_tile_and_long_texts_one_each() -> None:
    short = joined(pieces([group(100, *[9] * 30)], prompts=False))
    assert [len(tile.pieces) for tile in short] == [30]
    long = joined(pieces([group(100, 500)], prompts=False))
    assert [len(tile.pieces) for tile in long] == [1, 1, 1, 1]


def test_a_tile_does_not_grow_without_end() -> None:
    many = joined(pieces([group(100, *[9] * 2000)], prompts=False))
    assert max(tile.scores for tile in many) <= 1 << 16
    assert sum(len(tile.pieces) for tile in many) == 2000


def test_queries_of_a_tile_are_not_computed_much_in_vain() -> None:
    batch = [group(prompt, prompt // 2, prompt // 3) for prompt in torch.arange(20, 200, 7).tolist()]
    needed = sum(piece.count * (piece.before + piece.count) for piece in pieces(batch))
    assert sum(tile.scores for tile in joined(pieces(batch))) < 1.5 * needed

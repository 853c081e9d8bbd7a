"""Directions as files: what comes back, and that whatever else claims to be one is refused and nothing worse."""

import json
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from app.registry import CARD, TENSORS
from app.schemas.directions import Accuracy, DirectionCard, Reading
from app.schemas.names import Ref
from workers.directions.direction import PromptTerm, SafetyDirection, known, new_direction
from workers.directions.errors import UnusableFile
from workers.directions.files import SHIPPED, SHIPPED_DEFAULTS, from_files, to_files
from workers.engine.sites import Site
from workers.sealed import digest

SITES = (Site(2, "mean"), Site(4, "end_of_turn"))
READING = Reading(
    data="böse.jsonl",
    protocol="five-fold",
    accuracy=Accuracy(value=0.7, low=0.65, high=0.75, pairs=100, prompts=90),
    calibration_error=0.1 + 0.2,
)
Files = dict[str, bytes]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def direction(*, by_prompt: bool = True) -> SafetyDirection:
    """A direction with everything that a file can hold."""
    term = PromptTerm((Site(3, "request"),), random(3, 1, 8), random(3), random(3, 2, 8)) if by_prompt else None
    made = new_direction(
        "mine",
        SITES,
        random(2, 8),
        model=("tiny", "sha256:weights", "sha256:template"),
        recipe="pairs",
        settings={"lambda": 3.0, "pairs": 3, "paper": True, "layer": None, "data": "böse.jsonl"},
        term=term,
    )
    return known(made, slope=1 / 3, level_edges=[-0.1, 0.7], readings=[READING.model_dump()], unreliable=False)


def with_card(files: Files, **fields: object) -> Files:
    return {**files, CARD: json.dumps(json.loads(files[CARD]) | fields).encode()}


def with_tensors(files: Files, **tensors: Tensor) -> Files:
    return {**files, TENSORS: save(load(files[TENSORS]) | tensors)}


def signed(files: Files) -> Files:
    """The same with the digest that belongs to it, as somebody who means harm would write it."""
    return with_card(files, digest=digest(DirectionCard.model_validate_json(files[CARD]), load(files[TENSORS])))


@pytest.mark.parametrize("by_prompt", [False, True])
def test_a_direction_comes_back_bit_for_bit(by_prompt: bool) -> None:
    before = direction(by_prompt=by_prompt)
    after = from_files("mine", to_files(before))
    assert (after.card, after.sites, after.reads) == (before.card, before.sites, before.reads)
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)
    activations = random(5, len(before.reads), 8)
    assert torch.equal(after.scores(activations), before.scores(activations))


def test_the_card_is_json_that_people_can_read_and_nothing_is_pickled() -> None:
    files = to_files(direction())
    assert files.keys() == {CARD, TENSORS}
    assert "böse.jsonl" in files[CARD].decode()
    assert set(load(files[TENSORS])) == {"vectors", "probes", "offsets", "modulation"}


def test_a_card_names_its_alignment_and_one_without_is_what_it_was_before_cards_could() -> None:
    plain = direction()
    assert "alignment" not in json.loads(to_files(plain)[CARD])
    assert "alignment" not in plain.card.model_dump()
    named = known(plain, alignment={"id": "taught", "digest": "sha256:of-it"})
    assert from_files("mine", to_files(named)).card.alignment == Ref(id="taught", digest="sha256:of-it")
    assert named.digest != plain.digest
    with pytest.raises(UnusableFile, match="content does not match its digest"):
        from_files("mine", with_card(to_files(named), alignment={"id": "taught", "digest": "sha256:other"}))
    assert known(named, alignment=None).digest == plain.digest


def test_what_a_newer_version_adds_to_the_tensors_is_not_ignored() -> None:
    with pytest.raises(UnusableFile, match="mine: vectors and card do not belong together"):
        from_files("mine", with_tensors(to_files(direction()), bias=torch.zeros(2)))


TAMPERED: dict[str, Callable[[Files], Files]] = {
    "another slope": lambda files: with_card(files, slope=99.0),
    "reliable after all": lambda files: with_card(files, unreliable=True),
    "another model": lambda files: with_card(files, model_revision="sha256:others"),
    "turned round": lambda files: with_tensors(files, vectors=-load(files[TENSORS])["vectors"]),
    "other offsets": lambda files: with_tensors(files, offsets=torch.zeros(3)),
    "other modulation": lambda files: with_tensors(files, modulation=torch.zeros(3, 2, 8)),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_a_direction_that_was_tampered_with_does_not_match_its_digest(tamper: Callable[[Files], Files]) -> None:
    with pytest.raises(UnusableFile, match="mine: content does not match its digest"):
        from_files("mine", tamper(to_files(direction())))


def safetensors(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def vast(shape: list[int], dtype: str = "F32") -> bytes:
    """A file that claims a tensor much larger than itself."""
    return safetensors({"vectors": {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}})


UNREADABLE: dict[str, Callable[[Files], Mapping[str, bytes]]] = {
    "no tensors": lambda files: {CARD: files[CARD]},
    "no card": lambda files: {TENSORS: files[TENSORS]},
    "nothing": lambda _files: {},
    "empty tensors": lambda files: files | {TENSORS: b""},
    "empty card": lambda files: files | {CARD: b""},
    "cut short": lambda files: files | {TENSORS: files[TENSORS][:40]},
    "cut by a byte": lambda files: files | {TENSORS: files[TENSORS][:-1]},
    "a byte too many": lambda files: files | {TENSORS: files[TENSORS] + b"\0"},
    "garbage": lambda files: files | {TENSORS: b"\xff" * 200},
    "pickle": lambda files: files | {TENSORS: pickle.dumps({"vectors": [1.0]})},
    "vast header": lambda files: files | {TENSORS: struct.pack("<Q", 2**63) + b"{}"},
    "vast tensor": lambda files: files | {TENSORS: vast([2**40, 2**40])},
    "overflowing tensor": lambda files: files | {TENSORS: vast([0, 2**63])},
    "negative shape": lambda files: files | {TENSORS: vast([-1, 8])},
    "unknown dtype": lambda files: files | {TENSORS: vast([0], "F7")},
    "header of no object": lambda files: files | {TENSORS: safetensors([1, 2])},
    "deeply nested header": lambda files: files | {TENSORS: struct.pack("<Q", 200_000) + b"[" * 200_000},
    "overlapping tensors": lambda files: (
        files
        | {
            TENSORS: safetensors(
                {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in ("vectors", "offsets")}, bytes(8)
            )
        }
    ),
    "card of no JSON": lambda files: files | {CARD: b"{"},
    "card of no object": lambda files: files | {CARD: b"[]"},
    "card of no UTF-8": lambda files: files | {CARD: b'{"id": "\xff"}'},
    "deeply nested card": lambda files: files | {CARD: b'{"settings": ' + b"[" * 100_000},
    "lone surrogate": lambda files: with_card(files, recipe="\ud800"),
    "no sites": lambda files: with_card(files, sites=[]),
    "negative layer": lambda files: with_card(files, sites=[{"layer": -1, "pooling": "mean"}] * 2),
    "infinite slope": lambda files: with_card(files, slope=float("inf")),
    "edges that are no numbers": lambda files: with_card(files, level_edges=[float("nan")]),
    "an id that is a path": lambda files: with_card(files, id="../../etc"),
}


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_a_damaged_direction_is_refused_as_unreadable(damage: Callable[[Files], Files]) -> None:
    with pytest.raises(UnusableFile, match="mine: unreadable direction"):
        from_files("mine", damage(to_files(direction())))


APART: dict[str, Callable[[Files], Files]] = {
    "a site too few": lambda files: with_card(files, sites=[{"layer": 2, "pooling": "mean"}]),
    "no request site": lambda files: with_card(files, prompt_sites=[]),
    "a request site too many": lambda files: with_card(files, prompt_sites=[{"layer": 3, "pooling": "request"}] * 2),
    "flat": lambda files: with_tensors(files, vectors=torch.zeros(2)),
    "a number": lambda files: with_tensors(files, vectors=torch.tensor(1.0)),
    "offsets that are a number": lambda files: with_tensors(files, offsets=torch.tensor(1.0)),
    "probes of another width": lambda files: with_tensors(files, probes=torch.zeros(3, 1, 9)),
    "modulation of another rank": lambda files: with_tensors(files, modulation=torch.zeros(2, 2, 8)),
    "misnamed": lambda files: files | {TENSORS: save({"weights": torch.zeros(2, 8)})},
    "without probes": lambda files: (
        files | {TENSORS: save({n: t for n, t in load(files[TENSORS]).items() if n != "probes"})}
    ),
    "no tensors at all": lambda files: files | {TENSORS: save({})},
}


@pytest.mark.parametrize("damage", APART.values(), ids=APART)
def test_vectors_and_card_must_belong_together_even_where_the_digest_does(damage: Callable[[Files], Files]) -> None:
    with pytest.raises(UnusableFile, match="mine: vectors and card do not belong together"):
        from_files("mine", signed(damage(to_files(direction()))))


NO_NUMBERS: dict[str, Callable[[Files], Files]] = {
    "half precision": lambda files: with_tensors(files, vectors=torch.zeros(2, 8, dtype=torch.half)),
    "whole numbers": lambda files: with_tensors(files, offsets=torch.zeros(3, dtype=torch.int64)),
    "not a number": lambda files: with_tensors(files, vectors=torch.full((2, 8), float("nan"))),
    "infinite": lambda files: with_tensors(files, probes=torch.full((3, 1, 8), float("inf"))),
}


@pytest.mark.parametrize("damage", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_numbers_must_be_finite_ones_of_32_bits_even_where_the_digest_fits(damage: Callable[[Files], Files]) -> None:
    with pytest.raises(UnusableFile, match="mine: not all of its numbers are finite ones of 32 bits"):
        from_files("mine", signed(damage(to_files(direction()))))


@pytest.mark.parametrize("field", ["sites", "prompt_sites"])
def test_a_pooling_of_another_version_is_refused(field: str) -> None:
    files = to_files(direction())
    unknown = [{"layer": 2, "pooling": "median"}] * len(json.loads(files[CARD])[field])
    with pytest.raises(UnusableFile, match="mine: reads a pooling that this version does not know"):
        from_files("mine", signed(with_card(files, **{field: unknown})))


@pytest.mark.parametrize(("field", "pooling"), [("sites", "request"), ("prompt_sites", "mean")])
def test_of_a_prompt_only_the_request_is_read_and_of_a_response_never(field: str, pooling: str) -> None:
    files = to_files(direction())
    swapped = [{"layer": 2, "pooling": pooling}] * len(json.loads(files[CARD])[field])
    with pytest.raises(UnusableFile, match="mine: reads a pooling that this version does not know"):
        from_files("mine", signed(with_card(files, **{field: swapped})))


def test_numbers_of_any_size_in_a_card_are_refused_or_read_but_never_crash() -> None:
    """Python refuses to write out an integer of more than 4,300 digits."""
    files = to_files(direction())
    huge = files[CARD].replace(b'"pairs": 3', b'"pairs": ' + b"9" * 5000)
    assert huge != files[CARD]
    with pytest.raises(UnusableFile):
        from_files("mine", files | {CARD: huge})


def test_the_shipped_directions_load_and_each_default_is_one_of_them_made_for_its_model() -> None:
    shipped = {
        folder.name: from_files(folder.name, {part: (folder / part).read_bytes() for part in (CARD, TENSORS)})
        for folder in SHIPPED.iterdir()
        if folder.is_dir()
    }
    assert {name: held.id for name, held in shipped.items()} == {name: name for name in shipped}
    defaults = json.loads(SHIPPED_DEFAULTS.read_bytes())
    assert defaults
    assert {revision: shipped[name].card.model_revision for revision, name in defaults.items()} == {
        revision: revision for revision in defaults
    }
    assert not any(shipped[name].card.unreliable for name in defaults.values())

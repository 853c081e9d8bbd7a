"""Directions on disk: what comes back, and what is refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.schemas.directions import Accuracy, DirectionCard, Reading
from workers.directions.direction import SafetyDirection, digest, new_direction
from workers.directions.errors import UnusableFile
from workers.directions.store import SHIPPED, folders, load, save
from workers.engine.sites import Site

READING = Reading(
    data="böse.jsonl",
    protocol="five-fold",
    accuracy=Accuracy(value=0.7, low=0.65, high=0.75, pairs=100, prompts=90),
    calibration_error=0.1 + 0.2,
)


def direction(direction_id: str = "mine", scale: float = 1.0) -> SafetyDirection:
    return new_direction(
        direction_id,
        (Site(2, "mean"), Site(4, "end_of_turn")),
        scale * torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),
        model=("tiny", "sha256:weights", "sha256:template"),
        recipe="pairs",
        settings={"lambda": 3.0, "pairs": 3, "paper": True, "layer": None, "data": "böse.jsonl"},
        slope=1 / 3,
        readings=[READING],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A direction saved."""
    return save(direction(), tmp_path)


def change_card(folder: Path, **fields: object) -> None:
    card = json.loads((folder / "direction.json").read_text())
    (folder / "direction.json").write_text(json.dumps(card | fields))


def test_a_direction_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    before = direction()
    folder = save(before, tmp_path / "new")
    after = load(folder)
    assert folder == tmp_path / "new" / "mine"
    assert after.card == before.card
    assert after.sites == before.sites
    assert torch.equal(after.vectors, before.vectors)


def test_saving_replaces_a_direction_of_the_same_id_and_leaves_nothing_else(tmp_path: Path) -> None:
    first, second = save(direction(), tmp_path), save(direction(scale=2.0), tmp_path)
    assert first == second
    assert torch.equal(load(second).vectors, direction(scale=2.0).vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert {path.name for path in first.iterdir()} == {"direction.json", "direction.safetensors"}


def test_others_may_read_what_is_saved(folder: Path) -> None:
    assert folder.stat().st_mode & 0o555 == 0o555
    assert (folder / "direction.safetensors").stat().st_mode & 0o444 == 0o444


def other_slope(folder: Path) -> None:
    change_card(folder, slope=99.0)


def other_model(folder: Path) -> None:
    change_card(folder, model_revision="sha256:others")


def other_vectors(folder: Path) -> None:
    vectors = load_file(folder / "direction.safetensors")["vectors"]
    save_file({"vectors": -vectors}, folder / "direction.safetensors")


@pytest.mark.parametrize("tamper", [other_slope, other_model, other_vectors])
def test_a_direction_that_was_tampered_with_does_not_match_its_digest(
    folder: Path, tamper: Callable[[Path], None]
) -> None:
    tamper(folder)
    with pytest.raises(UnusableFile, match="mine: content does not match its digest"):
        load(folder)


def cut_short(folder: Path) -> None:
    os.truncate(folder / "direction.safetensors", 40)


def garbage(folder: Path) -> None:
    (folder / "direction.safetensors").write_bytes(b"\xff" * 200)


def pickled(folder: Path) -> None:
    (folder / "direction.safetensors").write_bytes(pickle.dumps({"vectors": [1.0]}))


def misnamed(folder: Path) -> None:
    save_file({"weights": torch.zeros(2, 8)}, folder / "direction.safetensors")


def no_vectors(folder: Path) -> None:
    (folder / "direction.safetensors").unlink()


def no_card(folder: Path) -> None:
    (folder / "direction.json").unlink()


def no_json(folder: Path) -> None:
    (folder / "direction.json").write_text("{")


def no_sites(folder: Path) -> None:
    change_card(folder, sites=[])


def negative_layer(folder: Path) -> None:
    change_card(folder, sites=[{"layer": -1, "pooling": "mean"}, {"layer": 4, "pooling": "end_of_turn"}])


def infinite_slope(folder: Path) -> None:
    change_card(folder, slope=float("inf"))


@pytest.mark.parametrize(
    "damage",
    [cut_short, garbage, pickled, misnamed, no_vectors, no_card, no_json, no_sites, negative_layer, infinite_slope],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_direction_is_refused_as_unreadable(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(UnusableFile, match="mine: unreadable direction"):
        load(folder)


def unknown_pooling(folder: Path) -> None:
    change_card(folder, sites=[{"layer": 2, "pooling": "median"}] * 2)


def missing_site(folder: Path) -> None:
    change_card(folder, sites=[{"layer": 2, "pooling": "mean"}])


def flat_vectors(folder: Path) -> None:
    save_file({"vectors": torch.zeros(2)}, folder / "direction.safetensors")


def half_precision(folder: Path) -> None:
    save_file({"vectors": direction().vectors.bfloat16()}, folder / "direction.safetensors")


def not_a_number(folder: Path) -> None:
    """Vectors of NaN whose digest is right."""
    vectors = torch.full((2, 8), float("nan"))
    save_file({"vectors": vectors}, folder / "direction.safetensors")
    card = DirectionCard.model_validate_json((folder / "direction.json").read_bytes())
    change_card(folder, digest=digest(card, vectors))


@pytest.mark.parametrize(
    "damage",
    [unknown_pooling, missing_site, flat_vectors, half_precision, not_a_number],
    ids=lambda damage: damage.__name__,
)
def test_vectors_and_card_must_belong_together(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(UnusableFile, match="mine: vectors and card do not belong together"):
        load(folder)


def test_a_folder_must_be_called_as_the_direction_in_it(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("other"))
    with pytest.raises(UnusableFile, match="other: holds a direction called mine"):
        load(renamed)


def test_a_later_root_overrides_an_earlier_one_and_unfinished_folders_are_not_seen(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    for root, direction_id in [(shipped, "default"), (shipped, "other"), (own, "default")]:
        save(direction(direction_id), root)
    (own / "empty").mkdir()
    os.rename(save(direction("half"), own), own / ".saving-half")
    assert folders([shipped, own]) == {"default": own / "default", "other": shipped / "other"}
    assert folders([tmp_path / "nowhere"]) == {}


def test_the_shipped_default_loads() -> None:
    default = load(folders([SHIPPED])["default"])
    assert default.id == "default"
    assert default.card.slope is not None
    assert default.card.readings

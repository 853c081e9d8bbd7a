"""Which directions a worker takes up when it starts."""

from pathlib import Path

import pytest
import torch

from workers.directions import store
from workers.directions.direction import SafetyDirection, new_direction
from workers.engine.annotator import Annotator
from workers.engine.sites import Site
from workers.main import load_directions


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped directions, empty unless a test fills it."""
    monkeypatch.setattr(store, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def direction(
    annotator: Annotator, direction_id: str, *, revision: str | None = None, template: str | None = None
) -> SafetyDirection:
    """A direction for the annotator, or for other weights or another template."""
    made_for = (annotator.name, revision or annotator.revision, template or annotator.template.digest)
    vectors = torch.randn(1, annotator.width)
    return new_direction(direction_id, (Site(2, "mean"),), vectors, model=made_for, recipe="by hand", settings={})


def test_a_fitting_direction_is_loaded_from_its_folder(annotator: Annotator, tmp_path: Path) -> None:
    mine = direction(annotator, "mine")
    store.save(mine, tmp_path / "own")
    (loaded,) = load_directions(annotator, tmp_path / "own").values()
    assert loaded.card == mine.card
    assert torch.equal(loaded.vectors, mine.vectors)


def test_directions_made_for_something_else_are_skipped_with_a_warning_and_the_rest_is_kept(
    annotator: Annotator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "own"
    store.save(direction(annotator, "foreign", revision="sha256:others"), own)
    store.save(direction(annotator, "outdated", template="sha256:others"), own)
    (store.save(direction(annotator, "damaged"), own) / "direction.safetensors").write_bytes(b"")
    store.save(direction(annotator, "good"), own)
    store.save(direction(annotator, "sound"), own)
    assert set(load_directions(annotator, own)) == {"good", "sound"}
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert caplog.messages == [
        "not loaded: damaged: unreadable direction (SafetensorError)",
        "not loaded: direction foreign was made for tiny, not for the weights of tiny",
        "not loaded: direction outdated was made with another chat template than tiny has now",
    ]


def test_a_direction_of_ones_own_takes_the_place_of_the_shipped_one(
    annotator: Annotator, tmp_path: Path, shipped: Path
) -> None:
    for folder in (shipped, tmp_path / "own"):
        store.save(direction(annotator, "default"), folder)
    store.save(direction(annotator, "shipped"), shipped)
    loaded = load_directions(annotator, tmp_path / "own")
    assert set(loaded) == {"default", "shipped"}
    assert loaded["default"].card == store.load(tmp_path / "own" / "default").card


def test_without_any_folder_there_are_no_directions(annotator: Annotator, tmp_path: Path) -> None:
    assert load_directions(annotator, tmp_path / "nowhere") == {}

"""Directions in the artifact store: what an id stands for, and what readers get to see of a change."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from app.artifacts import Artifacts
from app.registry import CARD, TENSORS, DirectionMissing, Registry

OLD, NEW = (f"sha256:{digit * 64}" for digit in "01")
CARD_JSON = {
    "id": "mine",
    "digest": OLD,
    "model": "tiny",
    "model_revision": "sha256:tiny",
    "template": "sha256:template",
    "sites": [{"layer": 2, "pooling": "mean"}],
    "slope": None,
    "recipe": "pairs",
    "unreliable": True,
    "created": "2026-01-01T00:00:00+00:00",
    "version": "0",
}


@pytest.fixture(params=["folder", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """The directions of an empty store."""
    memory = fsspec.filesystem("memory")
    yield Registry(Artifacts(str(tmp_path) if request.param == "folder" else "memory://registry"))
    if memory.exists("/registry"):
        memory.rm("/registry", recursive=True)


def parts(digest: str = OLD) -> dict[str, bytes]:
    return {TENSORS: digest.encode(), CARD: json.dumps(CARD_JSON | {"digest": digest}).encode()}


def test_an_empty_store_has_no_directions_and_no_defaults(registry: Registry) -> None:
    assert registry.current() == {}
    assert registry.defaults() == {}
    assert not registry.knows("mine")


def test_a_published_direction_is_found_by_its_id(registry: Registry) -> None:
    registry.publish("mine", OLD, parts())
    assert registry.current() == {"mine": OLD}
    assert registry.digest("mine") == OLD
    assert registry.card("mine").digest == OLD
    assert registry.part("mine", OLD, TENSORS) == OLD.encode()
    assert registry.knows("mine")


def test_parts_may_be_files_and_lie_in_folders(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"numbers")
    registry.publish("mine", OLD, {**parts(), "more/large": tmp_path / "large"})
    assert registry.part("mine", OLD, "more/large") == b"numbers"
    size, blocks = registry.blocks("mine", OLD, "more/large")
    assert (size, b"".join(blocks)) == (7, b"numbers")
    with pytest.raises(DirectionMissing, match=r"direction mine \(sha256:0{12}…\) has no more/small"):
        registry.blocks("mine", OLD, "more/small")


def test_a_replaced_direction_stands_for_its_new_digest_and_keeps_the_old_one(registry: Registry) -> None:
    registry.publish("mine", OLD, parts())
    registry.publish("mine", NEW, parts(NEW))
    assert registry.current() == {"mine": NEW}
    assert registry.card("mine").digest == NEW
    assert registry.part("mine", OLD, TENSORS) == OLD.encode()  # for the work that was accepted with it


def test_a_deleted_direction_is_gone_with_all_its_digests_and_known_still(registry: Registry) -> None:
    registry.publish("mine", OLD, parts())
    registry.publish("mine", NEW, parts(NEW))
    registry.publish("other", OLD, parts())
    registry.delete("mine")
    assert registry.current() == {"other": OLD}
    assert registry.knows("mine")
    for digest in (OLD, NEW):
        with pytest.raises(DirectionMissing):
            registry.part("mine", digest, TENSORS)
    with pytest.raises(DirectionMissing):
        registry.digest("mine")


def test_a_deleted_direction_can_be_published_again(registry: Registry) -> None:
    registry.publish("mine", OLD, parts())
    registry.delete("mine")
    registry.publish("mine", OLD, parts())
    assert registry.current() == {"mine": OLD}
    assert registry.part("mine", OLD, TENSORS) == OLD.encode()


@pytest.mark.parametrize("deleted_before", [False, True])
def test_only_what_is_there_can_be_deleted(registry: Registry, deleted_before: bool) -> None:
    if deleted_before:
        registry.publish("mine", OLD, parts())
        registry.delete("mine")
    with pytest.raises(DirectionMissing, match="no direction mine"):
        registry.delete("mine")
    assert registry.knows("mine") == deleted_before


def test_half_a_direction_is_never_seen(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks between any two writes finds the direction of before, with all its parts."""
    registry.publish("mine", OLD, parts())
    write, seen = Artifacts.write, list[str]()

    def watched(artifacts: Artifacts, path: str, content: bytes) -> None:
        digest = registry.digest("mine")
        assert {name: registry.part("mine", digest, name) for name in (CARD, TENSORS)} == parts(digest)
        seen.append(digest)
        write(artifacts, path, content)

    monkeypatch.setattr(Artifacts, "write", watched)
    registry.publish("mine", NEW, parts(NEW))
    assert seen == [OLD] * 3
    assert registry.card("mine").digest == NEW


def test_a_publication_that_breaks_off_is_never_seen(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Artifacts.write

    def breaking(artifacts: Artifacts, path: str, content: bytes) -> None:
        if path.endswith(CARD):
            raise OSError("gone")
        write(artifacts, path, content)

    monkeypatch.setattr(Artifacts, "write", breaking)
    with pytest.raises(OSError, match="gone"):
        registry.publish("mine", OLD, parts())
    assert registry.current() == {}
    assert not registry.knows("mine")


def test_a_deletion_that_breaks_off_leaves_nothing_that_could_be_used(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(artifacts: Artifacts, path: str) -> None:
        raise OSError("gone")

    registry.publish("mine", OLD, parts())
    monkeypatch.setattr(Artifacts, "delete", breaking)
    with pytest.raises(OSError, match="gone"):
        registry.delete("mine")
    assert registry.current() == {}


@pytest.mark.parametrize("pointer", [b"", b"nonsense", b"sha256:0", b"deleted", b"\xff\xfe", OLD.upper().encode()])
def test_a_pointer_that_is_no_digest_points_nowhere(registry: Registry, pointer: bytes) -> None:
    registry.publish("fine", OLD, parts())
    registry.artifacts.write("directions/mine/current", pointer)
    assert registry.current() == {"fine": OLD}
    with pytest.raises(DirectionMissing):
        registry.digest("mine")


def test_a_pointer_written_by_hand_may_end_with_a_line(registry: Registry) -> None:
    registry.artifacts.write("directions/mine/current", f"{OLD}\n".encode())
    assert registry.digest("mine") == OLD


@pytest.mark.parametrize("card", [b"", b"{", b"\xff", b'{"id": "mine"}'])
def test_a_card_that_cannot_be_read_is_missing(registry: Registry, card: bytes) -> None:
    registry.publish("mine", OLD, parts() | {CARD: card})
    with pytest.raises(DirectionMissing, match="mine"):
        registry.card("mine")


def test_a_part_that_is_not_there_is_missing_by_its_name(registry: Registry) -> None:
    registry.publish("mine", OLD, parts())
    with pytest.raises(DirectionMissing, match=r"mine.*report\.html"):
        registry.part("mine", OLD, "report.html")


def test_each_model_has_a_default_of_its_own(registry: Registry) -> None:
    registry.set_default("sha256:small", "mine")
    registry.set_default("sha256:large", "other")
    registry.set_default("sha256:small", "new")
    assert registry.defaults() == {"sha256:small": "new", "sha256:large": "other"}


def test_defaults_are_no_direction(registry: Registry) -> None:
    registry.publish("mine", OLD, parts())
    registry.set_default("sha256:tiny", "mine")
    assert registry.current() == {"mine": OLD}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"sha256:tiny": 7}'])
def test_damaged_defaults_are_none(registry: Registry, content: bytes) -> None:
    registry.artifacts.write("default-directions.json", content)
    assert registry.defaults() == {}
    registry.set_default("sha256:tiny", "mine")
    assert registry.defaults() == {"sha256:tiny": "mine"}


def test_processes_share_a_folder(tmp_path: Path) -> None:
    mine, other = (Registry(Artifacts(str(tmp_path))) for _ in range(2))
    other.publish("mine", OLD, parts())
    other.set_default("sha256:tiny", "mine")
    assert mine.current() == {"mine": OLD}
    assert mine.defaults() == {"sha256:tiny": "mine"}

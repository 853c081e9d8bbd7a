"""What a worker holds of what is in the artifact store."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from app.artifacts import Artifacts
from app.registry import PAGE, REPORT, TENSORS, Registry
from app.ruleadapters import RuleAdapters
from app.rulebanks import CARD as BANK_CARD
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.names import Ref
from app.schemas.report import DirectionReport
from tests.conftest import RULES, publish, random_bank, random_direction, ref
from workers import registry as holding
from workers.directions.direction import SafetyDirection, known
from workers.directions.files import to_files
from workers.directions.reporting import bare_report
from workers.engine.annotator import Annotator
from workers.engine.sites import Site
from workers.holding import NotHeld
from workers.registry import HeldAdapters, HeldDirections, Holdings, held_banks, publish_shipped
from workers.rules.adapting.adapter import LoraAdapter
from workers.rules.bank import to_files as bank_files


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Artifacts(str(tmp_path / "store")))


@pytest.fixture
def held(registry: Registry, annotator: Annotator) -> HeldDirections:
    return Holdings.of(registry.artifacts, annotator).directions


def digests(held: HeldDirections) -> dict[str, str]:
    return {name: direction.card.digest for name, direction in held.all().items()}


def damage(tmp_path: Path, direction: SafetyDirection) -> None:
    digest = direction.card.digest.removeprefix("sha256:")
    (tmp_path / "store" / "directions" / direction.id / digest / TENSORS).write_bytes(b"nonsense")


def made_for(direction: SafetyDirection, **elsewhere: str) -> SafetyDirection:
    """The same direction, said to be made for something else."""
    return known(direction, **elsewhere)


def test_it_holds_nothing_of_an_empty_store(held: HeldDirections) -> None:
    assert held.refresh() is False
    assert held.all() == {}


def test_a_direction_put_into_the_store_is_held_after_the_next_look(
    held: HeldDirections, registry: Registry, annotator: Annotator
) -> None:
    one, other = random_direction(annotator, "one", 1), random_direction(annotator, "other", 2)
    publish(registry, one)
    assert held.refresh() is True
    assert digests(held) == {"one": one.card.digest}
    publish(registry, other)
    assert held.refresh() is True
    assert held.refresh() is False
    assert set(held.all()) == {"one", "other"}
    assert torch.equal(held.all()["other"].vectors, other.vectors)


def test_a_replaced_direction_is_held_in_its_new_shape(
    held: HeldDirections, registry: Registry, annotator: Annotator
) -> None:
    old, new = random_direction(annotator, "d", 1), random_direction(annotator, "d", 2)
    publish(registry, old)
    held.refresh()
    publish(registry, new)
    assert held.refresh() is True
    assert digests(held) == {"d": new.card.digest}


def test_a_deleted_direction_is_held_no_longer(held: HeldDirections, registry: Registry, annotator: Annotator) -> None:
    publish(registry, random_direction(annotator, "d"), random_direction(annotator, "kept"))
    held.refresh()
    registry.delete("d")
    assert held.refresh() is True
    assert set(held.all()) == {"kept"}


def test_what_is_damaged_or_made_for_something_else_is_left_out_with_a_warning(
    held: HeldDirections, registry: Registry, annotator: Annotator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, good = random_direction(annotator, "broken"), random_direction(annotator, "good")
    foreign = made_for(random_direction(annotator, "foreign"), model_revision="sha256:others")
    outdated = made_for(random_direction(annotator, "outdated"), template="sha256:others")
    deep = random_direction(annotator, "too-deep", 0, Site(99, "mean"))
    publish(registry, broken, foreign, outdated, deep, good)
    damage(tmp_path, broken)
    assert held.refresh() is True
    assert set(held.all()) == {"good"}
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert caplog.messages == [
        "not loaded: broken: unreadable direction (SafetensorError)",
        "not loaded: direction foreign was made for tiny, not for the weights of tiny",
        "not loaded: direction outdated was made with another chat template than tiny has now",
        "not loaded: direction too-deep does not have the shape of tiny",
    ]


def test_what_could_not_be_loaded_is_not_tried_again_until_it_is_replaced(
    held: HeldDirections,
    registry: Registry,
    annotator: Annotator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, mended = random_direction(annotator, "d", 1), random_direction(annotator, "d", 2)
    publish(registry, broken)
    damage(tmp_path, broken)
    held.refresh()
    read: list[str] = []
    part = Registry.part

    def watched(registry: Registry, direction_id: str, digest: str, name: str) -> bytes:
        read.append(name)
        return part(registry, direction_id, digest, name)

    monkeypatch.setattr(Registry, "part", watched)
    assert held.refresh() is False
    assert (read, len(caplog.records)) == ([], 1)
    publish(registry, mended)
    assert held.refresh() is True
    assert digests(held) == {"d": mended.card.digest}


def test_a_bank_whose_pool_is_missing_is_waited_for_quietly_and_without_reading_its_numbers(
    registry: Registry, annotator: Annotator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks, pools, bank = RuleBanks(registry.artifacts), RulePools(registry.artifacts), random_bank(annotator)
    banks.publish(bank.id, bank.digest, bank_files(bank))
    read: list[str] = []
    part = RuleBanks.part

    def watched(shelf: RuleBanks, name: str, digest: str, file: str) -> bytes:
        read.append(file)
        return part(shelf, name, digest, file)

    monkeypatch.setattr(RuleBanks, "part", watched)
    held = held_banks(banks, pools, annotator)
    assert [held.refresh(), held.refresh()] == [False, False]
    assert set(read) == {BANK_CARD}
    (said,) = caplog.messages
    assert "rule pool tiny-rules" in said
    pools.add("tiny-rules", RULES)
    assert held.refresh() is True
    assert held.digests() == {bank.id: bank.digest}


def test_a_damaged_replacement_takes_the_place_of_nothing_but_itself(
    held: HeldDirections, registry: Registry, annotator: Annotator, tmp_path: Path
) -> None:
    old, broken = random_direction(annotator, "d", 1), random_direction(annotator, "d", 2)
    publish(registry, old)
    held.refresh()
    publish(registry, broken)
    damage(tmp_path, broken)
    assert held.refresh() is True
    assert held.all() == {}


def test_one_directions_files_under_the_name_of_another_are_not_taken_for_it(
    held: HeldDirections, registry: Registry, annotator: Annotator
) -> None:
    one, other = random_direction(annotator, "one", 1), random_direction(annotator, "other", 2)
    registry.publish("one", one.card.digest, to_files(other))
    held.refresh()
    assert held.all() == {}


def test_a_chunk_gets_exactly_the_content_that_it_asks_for_even_if_that_is_not_held(
    held: HeldDirections, registry: Registry, annotator: Annotator
) -> None:
    old, new = random_direction(annotator, "d", 1), random_direction(annotator, "d", 2)
    publish(registry, old)
    held.refresh()
    publish(registry, new)
    assert torch.equal(held.get(ref(old)).vectors, old.vectors)
    assert torch.equal(held.get(ref(new)).vectors, new.vectors)
    held.refresh()
    assert torch.equal(held.get(ref(old)).vectors, old.vectors)
    assert digests(held) == {"d": new.card.digest}


def test_what_a_chunk_asks_for_and_cannot_have_is_named_with_the_reason(
    held: HeldDirections, registry: Registry, annotator: Annotator, tmp_path: Path
) -> None:
    broken, gone = random_direction(annotator, "broken"), random_direction(annotator, "gone")
    foreign = made_for(random_direction(annotator, "foreign"), model_revision="sha256:others")
    publish(registry, broken, foreign, gone)
    damage(tmp_path, broken)
    registry.delete("gone")
    deleted = "direction gone was deleted while the job used it"
    for direction, reason in (
        (gone, deleted),
        (broken, r"broken: unreadable direction \(SafetensorError\)"),
        (foreign, "direction foreign was made for tiny, not for the weights of tiny"),
    ):
        with pytest.raises(NotHeld, match=f"^{reason}$"):
            held.get(ref(direction))
    with pytest.raises(NotHeld, match="direction never was deleted"):
        held.get(Ref(id="never", digest=gone.card.digest))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what comes with the service: empty, and without a default for anybody."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(holding, "SHIPPED", folder)
    monkeypatch.setattr(holding, "SHIPPED_DEFAULTS", folder / "default.json")
    (folder / "default.json").write_text("{}")
    return folder


def ship(folder: Path, *directions: SafetyDirection, default: dict[str, str] | None = None) -> None:
    for direction in directions:
        (folder / direction.id).mkdir(exist_ok=True)
        report = bare_report(direction).model_dump_json().encode()
        for name, content in (to_files(direction) | {REPORT: report}).items():
            (folder / direction.id / name).write_bytes(content)
    (folder / "default.json").write_text(json.dumps(default or {}))


def test_shipped_directions_go_into_the_store_with_their_reports_if_they_fit_the_annotator(
    registry: Registry, annotator: Annotator, shipped: Path, held: HeldDirections
) -> None:
    mine = random_direction(annotator, "mine")
    foreign = made_for(random_direction(annotator, "foreign"), model_revision="sha256:others")
    outdated = made_for(random_direction(annotator, "outdated"), template="sha256:others")
    ship(shipped, mine, foreign, outdated, default={annotator.revision: "mine", "sha256:others": "foreign"})
    publish_shipped(registry, annotator)
    assert registry.current() == {"mine": mine.card.digest}
    assert registry.defaults() == {annotator.revision: "mine"}
    assert DirectionReport.model_validate_json(registry.part("mine", mine.card.digest, REPORT)).card == mine.card
    assert b"mine" in registry.part("mine", mine.card.digest, PAGE)
    held.refresh()
    assert digests(held) == {"mine": mine.card.digest}


def test_without_a_shipped_direction_for_this_annotator_nothing_happens(
    registry: Registry, annotator: Annotator, shipped: Path
) -> None:
    ship(shipped, default={annotator.revision: "missing"})
    publish_shipped(registry, annotator)
    assert (registry.current(), registry.defaults()) == ({}, {})


def test_a_shipped_direction_that_was_deleted_stays_deleted(
    registry: Registry, annotator: Annotator, shipped: Path
) -> None:
    ship(shipped, random_direction(annotator, "mine"), default={annotator.revision: "mine"})
    publish_shipped(registry, annotator)
    registry.set_default(annotator.revision, "another")
    registry.delete("mine")
    publish_shipped(registry, annotator)
    assert registry.current() == {}


def test_a_direction_of_ones_own_is_not_overwritten_by_a_shipped_one_of_its_name(
    registry: Registry, annotator: Annotator, shipped: Path
) -> None:
    own = random_direction(annotator, "mine", 1)
    publish(registry, own)
    ship(shipped, random_direction(annotator, "mine", 2))
    publish_shipped(registry, annotator)
    assert registry.current() == {"mine": own.card.digest}


def test_the_default_is_set_once_and_the_users_choice_stands(
    registry: Registry, annotator: Annotator, shipped: Path
) -> None:
    one, other = random_direction(annotator, "one", 1), random_direction(annotator, "other", 2)
    ship(shipped, one, other, default={annotator.revision: "one"})
    publish_shipped(registry, annotator)
    assert registry.defaults() == {annotator.revision: "one"}
    registry.set_default(annotator.revision, "other")
    publish_shipped(registry, annotator)
    assert registry.defaults() == {annotator.revision: "other"}


class Learned:
    """A LoRA adapter by name whose loading is counted, and may have to wait."""

    def __init__(
        self,
        digest: str,
        loaded: list[str],
        gate: threading.Event | None = None,
        begun: threading.Event | None = None,
    ) -> None:
        self.digest, self._loaded, self._gate, self._begun = digest, loaded, gate, begun

    def classifier(self, _annotator: Annotator) -> Any:
        self._loaded.append(self.digest)
        if self._begun is not None:
            self._begun.set()
        assert self._gate is None or self._gate.wait(10)
        return object()


@pytest.fixture
def adapters(tmp_path: Path, annotator: Annotator) -> HeldAdapters:
    store = Artifacts(str(tmp_path / "store"))
    return HeldAdapters(RuleAdapters(store), RulePools(store), annotator)


def test_the_two_classifiers_asked_for_last_are_kept(adapters: HeldAdapters) -> None:
    loaded: list[str] = []
    one, two, three = (cast(LoraAdapter, Learned(name, loaded)) for name in ("one", "two", "three"))
    first = adapters.classifier(one)
    adapters.classifier(two)
    assert adapters.classifier(one) is first
    adapters.classifier(three)
    assert adapters.classifier(one) is first
    assert loaded == ["one", "two", "three"]
    adapters.classifier(two)
    assert loaded[3:] == ["two"]


def test_a_classifier_that_is_kept_can_be_had_while_another_is_loaded(adapters: HeldAdapters) -> None:
    loaded: list[str] = []
    gate, begun = threading.Event(), threading.Event()
    quick, slow = cast(LoraAdapter, Learned("quick", loaded)), cast(LoraAdapter, Learned("slow", loaded, gate, begun))
    first = adapters.classifier(quick)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(adapters.classifier, slow) for _ in range(2)]
        assert begun.wait(10)
        assert adapters.classifier(quick) is first
        gate.set()
        assert waiting[0].result(10) is waiting[1].result(10)
    assert loaded == ["quick", "slow"]

"""A whole training in a folder: loadable anywhere, reproducible, resumed where it was killed, never mixed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from app.rewards import ADAPTER, CARD, CURVES, PICTURE
from app.schemas.rewards import RewardCard, RewardCurves
from tests.workers.rewards.conftest import annotated, training
from workers.rewards.annotated import Annotated
from workers.rewards.errors import OtherTraining, UnfitRows
from workers.rewards.model import begun, load_reward_model
from workers.rewards.run import train
from workers.rewards.trainer import Stage

KINDS = ("full", "lora")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module", params=KINDS)
def finished(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("finished") / request.param
    train(training(base, folder, weights=request.param))
    return folder


def test_what_comes_of_it_is_a_classifier_that_anyone_can_load(finished: Path, tmp_path: Path) -> None:
    plain = AutoModelForSequenceClassification.from_pretrained(finished).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished)
    assert plain.num_labels == 1
    assert plain.dtype == torch.float32
    ours = load_reward_model(str(finished), tmp_path, device="cpu", dtype="float32")
    pairs = annotated(6)
    rewards = ours.rewards([ours.encode(one.pair.messages, one.pair.chosen) for one in pairs])
    for one, reward in zip(pairs, rewards.tolist(), strict=True):
        turns = [{"role": "user", "content": one.pair.prompt}, {"role": "assistant", "content": one.pair.chosen}]
        with torch.no_grad():
            found = plain(**tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)).logits.item()
        assert reward == pytest.approx(found, abs=1e-5)


def test_nothing_but_safetensors_json_and_a_picture_is_left(finished: Path) -> None:
    endings = {path.suffix for path in finished.rglob("*") if path.is_file()}
    assert endings == {".safetensors", ".json", ".jinja", ".png"}
    card = RewardCard.model_validate_json((finished / CARD).read_bytes())
    assert sorted(card.files) == sorted(
        str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file() and path.name != CARD
    )
    assert (finished / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_card_and_the_curves_say_how_it_went(finished: Path) -> None:
    card = RewardCard.model_validate_json((finished / CARD).read_bytes())
    curves = RewardCurves.model_validate_json((finished / CURVES).read_bytes())
    assert (card.data.pairs, card.data.held_out, card.data.refused) == (18, 6, {})
    assert [step.step for step in curves.steps] == list(range(1, 11))
    assert [one.step for one in curves.held_out] == [0, 5, 10]
    assert (card.before, card.after) == (curves.held_out[0], curves.held_out[-1])
    assert card.after is not None
    assert card.before is not None
    assert card.after.loss < card.before.loss
    assert card.steps == 10
    assert card.model == "tiny"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft uses a former name
def test_adapters_are_kept_beside_the_merged_model(base: Path, tmp_path: Path) -> None:
    train(training(base, tmp_path / "lora", weights="lora", rank=4))
    fresh = begun(str(base), tmp_path, 0).model
    adapted = PeftModel.from_pretrained(fresh, str(tmp_path / "lora" / ADAPTER)).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "lora").eval()
    tokens = torch.tensor([[0, 40, 41, 42, 43]])
    with torch.no_grad():
        assert adapted(tokens).logits.item() == pytest.approx(merged(tokens).logits.item(), abs=1e-5)
        assert merged(tokens).logits.item() != pytest.approx(begun(str(base), tmp_path, 0).model(tokens).logits.item())


def test_the_same_seed_gives_the_same_model_and_another_seed_another(
    finished: Path, base: Path, tmp_path: Path
) -> None:
    kind = finished.name
    train(training(base, tmp_path / "again", weights=kind))
    assert weights(tmp_path / "again") == weights(finished)
    train(training(base, tmp_path / "other", weights=kind, seed=1))
    assert weights(tmp_path / "other") != weights(finished)


@pytest.mark.parametrize("killed_at", [2, 6, 10])  # there are checkpoints at 3, 6 and 9
def test_a_training_that_was_killed_comes_to_the_same_numbers(
    finished: Path, base: Path, tmp_path: Path, killed_at: int
) -> None:
    asked = training(base, tmp_path / "killed", weights=finished.name)
    told: list[int] = []

    def note(stage: Stage, done: int, _total: int, _loss: float | None) -> None:
        if stage == "train":
            told.append(done)

    def kill(stage: Stage, done: int, total: int, loss: float | None) -> None:
        note(stage, done, total, loss)
        if told and told[-1] == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(training(base, tmp_path / "killed", weights=finished.name, tell=kill))
    assert not (tmp_path / "killed" / CARD).exists()
    train(training(base, tmp_path / "killed", weights=finished.name, tell=note))
    assert weights(asked.folder) == weights(finished)
    assert (asked.folder / CURVES).read_bytes() == (finished / CURVES).read_bytes()
    resumed = told[told.index(killed_at) + 1]
    assert resumed == 3 * ((killed_at - 1) // 3) + 1  # a step is told of before its checkpoint is kept


def test_what_is_finished_is_not_done_again(finished: Path, base: Path) -> None:
    def fail(*_told: object) -> None:
        raise AssertionError("trained again")

    card = train(training(base, finished, weights=finished.name, tell=fail))
    assert card == RewardCard.model_validate_json((finished / CARD).read_bytes())


@pytest.mark.parametrize("change", [{"seed": 3}, {"conflicts": "drop"}, {"learning_rate": 0.1}])
def test_a_folder_of_another_training_is_refused_by_what_differs(
    finished: Path, base: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(OtherTraining, match=f"was made with other {next(iter(change))}: choose"):
        train(training(base, finished, weights=finished.name, **change))

    def kill(*_told: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(training(base, tmp_path / "begun", tell=kill))
    with pytest.raises(OtherTraining, match=f"was made with other {next(iter(change))}: choose"):
        train(training(base, tmp_path / "begun", **change))
    with pytest.raises(OtherTraining, match="was made with other data: choose"):
        train(training(base, tmp_path / "begun", annotated(23)))


def test_how_often_a_checkpoint_is_kept_may_change(finished: Path, base: Path) -> None:
    train(training(base, finished, weights=finished.name, checkpoint=1))


def test_pairs_that_cannot_be_shown_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    pairs = annotated()
    long = pairs[0].pair.model_copy(update={"chosen": "on " * 200})
    card = train(training(base, tmp_path / "long", [Annotated(1, long, 1.0), *pairs[1:]], held_out=0))
    assert (card.data.pairs, card.data.refused) == (23, {"too_long": 1})
    assert card.before is card.after is None
    with pytest.raises(UnfitRows, match=r"0 of 24 pairs are left to train on.*24 too_long"):
        train(training(base, tmp_path / "none", pairs, max_length=8, held_out=0))


def test_too_few_pairs_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfitRows, match="0 of 0 pairs are left"):
        train(training(base, tmp_path / "nothing", []))
    only = [one for one in annotated() if one.margin is not None and one.margin < 0]
    with pytest.raises(UnfitRows, match=r"0 of 10 pairs are left to train on.*10 conflicts"):
        train(training(base, tmp_path / "conflicts", only, conflicts="drop", held_out=0))


def test_a_reward_model_can_be_trained_on(finished: Path, tmp_path: Path) -> None:
    card = train(training(finished, tmp_path / "further", weights="full"))
    assert card.model == finished.name
    assert card.before is not None
    before = RewardCard.model_validate_json((finished / CARD).read_bytes()).after
    assert before is not None
    assert card.before.loss == pytest.approx(before.loss, rel=0.05)

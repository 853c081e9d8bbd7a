"""The last blocks read what the others made of a dialogue as the whole model reads the dialogue."""

from pathlib import Path

import pytest
import torch

from tests.conftest import user
from tests.workers.rewards.conftest import tiny_language_model
from workers.experiments.trunk import shorten, store, stored
from workers.rewards.errors import UnusableModel
from workers.rewards.model import RewardModel, begun

ANSWERS = ["oh well", "NO! THROW IT AWAY!", "hm", "keep it where it is"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_language_model(tmp_path_factory.mktemp("base") / "tiny", num_hidden_layers=4)


@pytest.fixture
def model(base: Path, tmp_path: Path) -> RewardModel:
    return begun(str(base), tmp_path, 0)


def texts_of(model: RewardModel) -> list[list[int]]:
    return [model.encode(user("What of the knife?"), answer) for answer in ANSWERS]


def silent(_done: int, _total: int) -> None:
    pass


@pytest.mark.parametrize("trained", [1, 3])
def test_rewards_are_those_of_the_whole_model(base: Path, model: RewardModel, tmp_path: Path, trained: int) -> None:
    texts, path = texts_of(model), tmp_path / "trunk.safetensors"
    expected = model.rewards(texts)
    store(model, texts, trained, path, silent)
    assert torch.equal(model.rewards(texts), expected)  # storing leaves it as it was
    cut = stored(begun(str(base), tmp_path, 0), texts, trained, path)
    found = cut.rewards([cut.encode(user("What of the knife?"), answer) for answer in ANSWERS])
    assert float((found - expected).abs().max()) < 0.2 * float(expected.std())  # what is stored is rounded to bfloat16
    assert expected.std() > 0.005
    assert len(cut.model.base_model.layers) == trained


def test_only_the_last_blocks_are_left_to_train(model: RewardModel, tmp_path: Path) -> None:
    texts, path = texts_of(model), tmp_path / "trunk.safetensors"
    store(model, texts, 1, path, silent)
    names = {name.split(".")[1] for name, _ in stored(model, texts, 1, path).model.named_parameters() if "." in name}
    assert names == {"layers", "norm", "weight"}


def test_a_dialogue_that_is_not_stored_cannot_be_read(model: RewardModel, tmp_path: Path) -> None:
    texts, path = texts_of(model), tmp_path / "trunk.safetensors"
    store(model, texts, 1, path, silent)
    cut = stored(model, texts, 1, path)
    with pytest.raises(KeyError):
        cut.encode(user("What of the knife?"), "something else")


def test_what_another_model_stored_is_refused(base: Path, model: RewardModel, tmp_path: Path) -> None:
    texts, path = texts_of(model), tmp_path / "trunk.safetensors"
    store(model, texts, 1, path, silent)
    with pytest.raises(UnusableModel, match="cannot be trained by themselves"):
        stored(begun(str(base), tmp_path, 1), texts, 2, path)


def test_a_model_can_be_cut_short(model: RewardModel, tmp_path: Path) -> None:
    texts = texts_of(model)
    whole = model.rewards(texts)
    with pytest.raises(UnusableModel, match="has 4 blocks, not 5"):
        shorten(model, 5)
    shorten(model, 2)
    assert not torch.allclose(model.rewards(texts), whole, atol=0.01)
    with pytest.raises(UnusableModel, match="has 2 blocks; only fewer"):
        store(model, texts, 2, tmp_path / "trunk.safetensors", silent)

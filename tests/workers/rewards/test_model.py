"""Reward models through batches give what plain transformers gives; what is no reward model is refused."""

import math
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from app.schemas.pairs import Message
from tests.conftest import tiny_tokenizer, user
from tests.workers.rewards.conftest import annotated, tiny_language_model
from workers.engine.errors import ModelNotLoaded, TemplateRefused, TooLong
from workers.rewards.errors import UnusableModel
from workers.rewards.model import RewardModel, begun, by_length, load_reward_model, padded


def tiny_classifier(folder: Path, labels: int = 1, chat_template: bool = True) -> Path:
    tokenizer = tiny_tokenizer() if chat_template else tiny_tokenizer(chat_template=None)
    tokenizer.pad_token = "<|im_end|>"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1, pad_token_id=1, num_labels=labels,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("classifier") / "tiny-rm")


@pytest.fixture
def model(classifier: Path, tmp_path: Path) -> RewardModel:
    return load_reward_model(str(classifier), tmp_path, device="cpu", dtype="float32")


DIALOGUES = [(f"What of knife {n}?", "Keep it. " * (1 + n % 7)) for n in range(20)] + [("Hm?", "")]


def test_batched_rewards_are_those_of_plain_transformers(model: RewardModel, classifier: Path) -> None:
    plain = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    expected = []
    for prompt, response in DIALOGUES:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        tokens = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            expected.append(plain(**tokens).logits.item())
    model.budget.settle(300)  # several batches, padded
    told: list[tuple[int, int]] = []
    rewards = model.rewards(
        [model.encode(user(prompt), response) for prompt, response in DIALOGUES],
        lambda done, total: told.append((done, total)),
    )
    assert rewards.tolist() == pytest.approx(expected, abs=1e-5)
    assert told[-1] == (21, 21)
    assert len(told) > 3


def test_passes_side_by_side_give_the_same_rewards(model: RewardModel, classifier: Path, tmp_path: Path) -> None:
    several = load_reward_model(str(classifier), tmp_path, device="cpu", dtype="float32", passes=3)
    texts = [model.encode(user(prompt), response) for prompt, response in DIALOGUES]
    for one in (model, several):
        one.budget.settle(300)
    assert several.rewards(texts).tolist() == pytest.approx(model.rewards(texts).tolist(), abs=1e-6)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        several.rewards(texts, stop)


def test_rewards_that_are_no_numbers_are_nobodys(model: RewardModel) -> None:
    model.model.score.weight.data.fill_(math.nan)
    with pytest.raises(UnusableModel, match="tiny-rm gives rewards that are no finite numbers"):
        model.rewards([model.encode(user("What?"), "this")])


def test_of_half_precision_rewards_are_float32_and_close(model: RewardModel, classifier: Path, tmp_path: Path) -> None:
    half = load_reward_model(str(classifier), tmp_path, device="cpu", dtype="bfloat16")
    texts = [half.encode(user(prompt), response) for prompt, response in DIALOGUES]
    rewards = half.rewards(texts)
    assert half.model.dtype == torch.bfloat16
    assert rewards.tolist() == pytest.approx(model.rewards(texts).tolist(), abs=0.1)
    assert any(reward != float(torch.tensor(reward).bfloat16()) for reward in rewards.tolist())


def test_a_classifier_of_another_sort_is_read_the_same_way(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|im_end|>"
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_labels=1, pad_token_id=1,
    )  # fmt: skip
    bert = BertForSequenceClassification(config).eval()
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    model = load_reward_model(str(tmp_path / "bert"), tmp_path, device="cpu", dtype="float32")
    texts = [model.encode(user(prompt), response) for prompt, response in DIALOGUES]
    with torch.no_grad():
        alone = [bert(input_ids=torch.tensor([text])).logits.item() for text in texts]
    assert model.rewards(texts).tolist() == pytest.approx(alone, abs=1e-5)


def test_batches_are_of_about_one_length_and_hold_every_text_once() -> None:
    lengths = [5, 90, 7, 6, 80, 300, 8]
    batches = by_length(lengths, 180)
    assert batches == [[5], [1, 4], [6, 2, 3, 0]]
    assert by_length([], 10) == []


def test_nothing_is_padded_that_needs_no_padding() -> None:
    assert set(padded([[1, 2], [3, 4]], 0)) == {"input_ids"}
    some = padded([[1, 2], [3]], 9)
    assert some["input_ids"].tolist() == [[1, 2], [3, 9]]
    assert some["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_a_dialogue_that_cannot_be_read_is_refused(model: RewardModel) -> None:
    with pytest.raises(TooLong, match="are more than 256"):
        model.encode(user("Hm?"), "long " * 300)
    strict = tiny_tokenizer("{{ raise_exception('no') }}")
    with pytest.raises(TemplateRefused):
        RewardModel("m", "r", model.model, strict, 256, model.budget).encode([Message(role="user", content="a")], "b")


def test_what_is_no_reward_model_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"tiny is no reward model: it lacks score\.weight"):
        load_reward_model(str(base), tmp_path, device="cpu")
    with pytest.raises(UnusableModel, match="3 labels, not one"):
        load_reward_model(str(tiny_classifier(tmp_path / "three", labels=3)), tmp_path, device="cpu")
    with pytest.raises(UnusableModel, match="no chat template"):
        load_reward_model(str(tiny_classifier(tmp_path / "mute", chat_template=False)), tmp_path, device="cpu")
    with pytest.raises(ModelNotLoaded, match="no model folder"):
        load_reward_model(str(tmp_path / "nowhere"), tmp_path, device="cpu")
    (tmp_path / "pickled").mkdir()
    with pytest.raises(ModelNotLoaded, match="no safetensors"):
        begun(str(tmp_path / "pickled"), tmp_path, 0)


def test_a_head_is_by_lot_of_the_seed_alone(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = begun(str(base), tmp_path, 0)
    state = torch.get_rng_state()
    again, other = begun(str(base), tmp_path, 0), begun(str(base), tmp_path, 1)
    assert torch.equal(first.model.score.weight, again.model.score.weight)
    assert not torch.equal(first.model.score.weight, other.model.score.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_language_model_without_some_of_its_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny_language_model(tmp_path / "tiny")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ModelNotLoaded, match="lacks 9 of its weights"):
        begun(str(folder), tmp_path, 0)


def test_training_and_reading_see_the_same_tokens(base: Path, tmp_path: Path) -> None:
    model, tokenizer = begun(str(base), tmp_path, 0), AutoTokenizer.from_pretrained(base)
    one = annotated(1)[0].pair
    text = tokenizer.decode(model.encode(one.messages, one.chosen))
    assert text.endswith(f"<|im_start|>user\n{one.prompt}<|im_end|>\n<|im_start|>assistant\n{one.chosen}<|im_end|>\n")

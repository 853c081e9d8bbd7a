"""The LoRA classifier: what it reads of a pair, that it learns, and that the annotator stays as it is."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from app.schemas.pairs import Message, Pair
from tests.conftest import encode
from tests.workers.rules.adapting.conftest import telling_pairs, turned
from tests.workers.rules.conftest import roomy_annotator
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.sites import Site
from workers.rules.adapting.classifier import LONGEST, Classifier, Course, fair_shares

PAIRS = telling_pairs(24)
TARGETS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).repeat(12, 1)
COURSE = Course(epochs=6, learning_rate=1e-2, batch=8, rank=4)


def ignore(_done: int, _total: int) -> None:
    """Nobody asks how far it is."""


def trained(annotator: Annotator, seed: int = 0) -> tuple[Classifier, int]:
    course = Course(COURSE.epochs, COURSE.learning_rate, COURSE.batch, COURSE.rank, seed)
    made = Classifier(annotator, 3, course.rank, seed)
    return made, made.train(PAIRS, TARGETS, (PAIRS[:8], TARGETS[:8]), course, ignore)


@pytest.fixture(scope="module")
def classifier(roomy: Annotator) -> Classifier:
    return trained(roomy)[0]


def text_of(annotator: Annotator, tokens: list[int]) -> str:
    return str(annotator.tokenizer.decode(tokens))


def test_it_reads_the_conversation_and_both_responses_in_either_order(roomy: Annotator) -> None:
    prompt = [Message(role="system", content="Be brief."), Message(role="user", content="Hi?")]
    pair = Pair(prompt=prompt, chosen="hello", rejected="go away")
    first, second = (text_of(roomy, order) for order in Classifier(roomy, 3, 4).encode(pair))
    head = "Conversation:\nSystem: Be brief.\nUser: Hi?\n\n\nResponse A:\n"
    assert first == head + "hello\n\nResponse B:\ngo away\n\nCritical rules:"
    assert second == head + "go away\n\nResponse B:\nhello\n\nCritical rules:"


def test_what_is_too_long_is_cut_fairly(roomy: Annotator) -> None:
    pair = Pair(prompt="old " * 900 + "news?", chosen="short", rejected="y" * 3000 + "the end")
    for order in Classifier(roomy, 3, 4).encode(pair):
        text = text_of(roomy, order)
        assert len(order) == LONGEST
        assert "short" in text
        assert "news?" in text
        assert "the end" not in text
        assert text.endswith("Critical rules:")
    assert fair_shares([10, 100, 1000], 300) == [10, 100, 190]
    assert fair_shares([1000, 10, 1000], 300) == [145, 10, 145]
    assert fair_shares([1, 2, 3], 300) == [1, 2, 3]


def test_a_text_never_becomes_a_control_token(roomy: Annotator) -> None:
    control = roomy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    pair = Pair(prompt="hi <|im_end|>", chosen="<|im_end|>", rejected="<|im_start|>")
    assert all(control not in order for order in Classifier(roomy, 3, 4).encode(pair))


def test_before_training_a_pair_is_told_little_more_than_the_prior(roomy: Annotator) -> None:
    classifier = Classifier(roomy, 3, 4)
    classifier.prior = torch.tensor([-9.0, 0.0, 9.0])
    likely = classifier.likely(PAIRS[:2])
    assert likely.argsort(dim=1).tolist() == [[0, 1, 2]] * 2
    assert (likely[:, 2] > 0.9).all()


def test_it_learns_what_the_pairs_show(roomy: Annotator) -> None:
    classifier, epoch = trained(roomy)
    assert epoch > 0
    likely = classifier.likely(PAIRS)
    assert ((likely[:, 0] > likely[:, 1]) == (TARGETS[:, 0] > TARGETS[:, 1])).double().mean() > 0.75


def test_with_the_sides_exchanged_it_says_the_same(classifier: Classifier) -> None:
    torch.testing.assert_close(classifier.likely([turned(pair) for pair in PAIRS]), classifier.likely(PAIRS))


def test_neighbours_change_nothing(classifier: Classifier) -> None:
    alone = torch.cat([classifier.likely([pair]) for pair in PAIRS])
    torch.testing.assert_close(alone, classifier.likely(PAIRS), atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_numbers(roomy: Annotator, classifier: Classifier) -> None:
    again, other = trained(roomy)[0], trained(roomy, seed=3)[0]
    assert all(torch.equal(again.tensors[name], part) for name, part in classifier.tensors.items())
    assert not torch.equal(other.likely(PAIRS), classifier.likely(PAIRS))


def test_it_comes_back_from_its_numbers_alone(roomy: Annotator, classifier: Classifier) -> None:
    again = Classifier(roomy, 3, 4, seed=9)
    again.load(classifier.tensors)
    assert torch.equal(again.likely(PAIRS), classifier.likely(PAIRS))
    assert all(part.dtype == torch.float32 for part in classifier.tensors.values())
    with pytest.raises(ValueError, match="not the numbers"):
        Classifier(roomy, 4, 4).load(classifier.tensors)
    with pytest.raises(ValueError, match="not the numbers"):
        again.load({"prior": torch.zeros(3)})


def test_the_annotator_stays_as_it_is() -> None:
    annotator = roomy_annotator()
    before = {name: weight.clone() for name, weight in annotator.model.state_dict().items()}
    modules = [type(module) for module in annotator.model.modules()]
    trained(annotator)
    after = annotator.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert [type(module) for module in annotator.model.modules()] == modules
    assert not any(module.training for module in annotator.model.modules())
    assert not any(weight.requires_grad for weight in annotator.model.parameters())
    read(annotator, [encode(annotator, "hi", "yes", "no")], [Site(2, "mean")])  # its taps are still there


def test_weights_of_half_precision_are_trained_beside(roomy: Annotator) -> None:
    half = roomy_annotator()
    half.model.to(torch.bfloat16)
    classifier, _ = trained(half)
    assert {weight.dtype for weight in classifier.parameters() if weight.requires_grad} == {torch.float32}
    assert classifier.likely(PAIRS[:3]).isfinite().all()
    assert all(part.dtype == torch.float32 for part in classifier.tensors.values())


def test_progress_reaches_its_end_and_may_end_it_before(roomy: Annotator) -> None:
    told: list[tuple[int, int]] = []
    validation = (PAIRS[:4], TARGETS[:4])
    Classifier(roomy, 3, 4).train(PAIRS[:8], TARGETS[:8], validation, COURSE, lambda *step: told.append(step))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]

    def end(done: int, _total: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Classifier(roomy, 3, 4).train(PAIRS[:8], TARGETS[:8], validation, COURSE, end)


def test_pairs_that_memory_does_not_suffice_for_at_once_are_told_the_same_by_parts(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, logits = classifier.likely(PAIRS), Classifier.logits

    def small(self: Classifier, rows: Sequence[Sequence[int]]) -> Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return logits(self, rows)

    monkeypatch.setattr(Classifier, "logits", small)
    ticks: list[int] = []
    torch.testing.assert_close(classifier.likely(PAIRS, ticks.append), whole)
    assert sum(ticks) == 2 * len(PAIRS)

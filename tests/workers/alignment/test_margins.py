"""What a taught model says of responses: one scalar each, whoever stands beside it."""

import pytest
import torch
from torch import Tensor

from app.schemas.pairs import Message
from tests.conftest import user
from tests.workers.alignment.conftest import LORA
from workers.alignment.batches import Item, Showing
from workers.alignment.instructions import DISPREFERRED, PREFERRED
from workers.alignment.learner import Learner
from workers.alignment.margins import Contrast, Scored
from workers.engine.annotator import Annotator
from workers.engine.errors import NotFinite, PairRefused, TooLong, Unscorable

ITEMS = [
    Item(user("How do I sharpen a knife?"), ("Slowly, with care.", "no")),
    Item([Message(role="system", content="Be brief."), *user("hi")], ("", "hello", "what")),
    Item(user("And then? " * 20), ("That is all.",)),
]


def values(found: list[Scored | PairRefused]) -> list[Tensor]:
    return [one.scores for one in found if isinstance(one, Scored)]


@torch.no_grad()
def plainly(annotator: Annotator, item: Item, instruction: str | None) -> Tensor:
    """log π of every response by transformers alone, an instruction as the system message."""
    messages = list(item.messages)
    if instruction and messages[0].role == "system":
        messages[0] = Message(role="system", content=f"{instruction}\n\n{messages[0].content}")
    elif instruction:
        messages.insert(0, Message(role="system", content=instruction))
    found = []
    for response in item.responses:
        group = annotator.template.encode(messages, [response])
        tokens = [*group.prefix, *group.branches[0].tokens]
        chances = annotator.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        found.append(sum(chances[place - 1, tokens[place]] for place in range(len(group.prefix), len(tokens))))
    return torch.tensor(found)


def test_a_score_is_how_much_likelier_the_good_instruction_makes_it(pupil: Annotator) -> None:
    found = values(Contrast.of_scit(pupil).scores(ITEMS))
    for item, scores in zip(ITEMS, found, strict=True):
        expected = plainly(pupil, item, PREFERRED) - plainly(pupil, item, DISPREFERRED)
        torch.testing.assert_close(scores.float(), expected, atol=2e-3, rtol=1e-3)


def test_of_two_models_it_is_how_much_likelier_the_one_finds_it_than_the_other(pupil: Annotator) -> None:
    changed = Learner.of_adapter(pupil, LORA.model_copy(update={"dropout": 0.0}), 0).annotator
    with torch.no_grad():
        for name, weight in changed.model.named_parameters():
            if ".lora_" in name:
                weight.add_(0.1)
    found = values(Contrast.of_dual(pupil, changed).scores(ITEMS))
    for item, scores in zip(ITEMS, found, strict=True):
        expected = plainly(pupil, item, None) - plainly(changed, item, None)
        torch.testing.assert_close(scores.float(), expected, atol=2e-3, rtol=1e-3)


def test_neighbours_change_nothing(pupil: Annotator) -> None:
    contrast = Contrast.of_scit(pupil)
    alone = [values(contrast.scores([item]))[0] for item in ITEMS]
    for one, other in zip(alone, values(contrast.scores(ITEMS)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_many_responses_go_in_parts_and_score_the_same(pupil: Annotator) -> None:
    many = Item(user("hi"), tuple(f"answer {number} " * 8 for number in range(40)))
    told: list[int] = []
    (found,) = values(Contrast.of_scit(pupil).scores([many], progress=told.append))
    assert len(found) == 40
    assert told[-1] > 1
    (last,) = values(Contrast.of_scit(pupil).scores([Item(many.messages, many.responses[-1:])]))
    torch.testing.assert_close(found[-1:], last, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused_or_cut_as_the_request_says(pupil: Annotator) -> None:
    items = [ITEMS[0], Item(user("old " * 3000 + "news?"), ("ok",))]
    contrast = Contrast.of_scit(pupil)
    whole, refusal = contrast.scores(items)
    assert isinstance(whole, Scored)
    assert isinstance(refusal, TooLong)
    same, cut = contrast.scores(items, truncate=True)
    assert isinstance(same, Scored)
    assert isinstance(cut, Scored)
    assert torch.equal(same.scores, whole.scores)
    assert (same.truncated, cut.truncated) == (False, True)


@torch.no_grad()
def test_of_a_conversation_that_is_cut_both_sides_are_asked_about_the_same_words(pupil: Annotator) -> None:
    """As many as fit beside the longer instruction, whichever that is."""
    short, long = "Be good.", "Be bad, and whatever you do be as long about it as this instruction is."
    item, learner = Item(user("old " * 3000 + "news?"), ("ok",)), Learner.reading(pupil)
    for told in ((short, long), (long, short)):
        (scored,) = Contrast((learner, learner), told).scores([item], truncate=True)
        assert isinstance(scored, Scored)
        (group,) = Showing(pupil.template, (long,), None, None).show(item).groups
        assert scored.prompt == group.prompt
        good, bad = Showing(pupil.template, told, group.prompt, None).show(item).groups
        expected = learner.log_likelihoods([good]) - learner.log_likelihoods([bad])
        torch.testing.assert_close(scored.scores.float(), expected, atol=2e-3, rtol=1e-3)


def test_an_item_on_which_the_model_fails_fails_alone(pupil: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    contrast = Contrast.of_scit(pupil)
    inner = Learner.log_likelihoods

    def failing(learner: Learner, groups: list[object]) -> Tensor:
        if any(len(group.branches) == 3 for group in groups):  # type: ignore[attr-defined]
            raise RuntimeError("no memory")
        return inner(learner, groups) * float("nan" if len(groups) == 1 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "log_likelihoods", failing)
    first, second, third = contrast.scores(ITEMS)
    assert isinstance(second, Unscorable)
    assert isinstance(first, NotFinite | Scored)
    assert isinstance(third, NotFinite | Scored)
    assert any(isinstance(one, NotFinite) for one in (first, third))

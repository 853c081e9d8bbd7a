"""The annotator's own answers, which the recipe `legend` learns from."""

import pytest
import torch

from tests.conftest import encode
from workers.engine import attention
from workers.engine.annotator import Annotator
from workers.engine.forward import read
from workers.engine.generate import greedy_answers
from workers.engine.sites import Site

QUESTIONS = ["hi", "How do I sharpen a knife?", "Who are you, and what do you want from me at this hour?", "Why?"] * 5


def prompts(annotator: Annotator) -> list[tuple[int, ...]]:
    return [encode(annotator, question, "").prefix for question in QUESTIONS]


def most_likely(annotator: Annotator, prompt: tuple[int, ...], count: int) -> str:
    """The answer token by token, without batches, padding or a cache."""
    annotator.model.set_attn_implementation("eager")
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(annotator.model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == annotator.template.end_of_turn:
                break
    annotator.model.set_attn_implementation(attention.NAME)
    return str(annotator.tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True)).strip()


def test_answers_are_the_most_likely_tokens_in_the_order_of_the_prompts(annotator: Annotator) -> None:
    told: list[int] = []
    answers = greedy_answers(annotator, prompts(annotator), max_new_tokens=6, progress=told.append)
    assert answers == [most_likely(annotator, prompt, 6) for prompt in prompts(annotator)]
    assert len(set(answers)) > 1
    assert told == [16, 20]


def test_the_annotator_can_be_read_again_afterwards_and_after_an_error(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, sites = encode(annotator, "hi", "ho"), [Site(2, "mean")]
    before = read(annotator, [group], sites)
    greedy_answers(annotator, [group.prefix], max_new_tokens=2)
    assert torch.equal(read(annotator, [group], sites), before)
    monkeypatch.setattr(type(annotator.model), "generate", lambda *_a, **_k: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(RuntimeError):
        greedy_answers(annotator, [group.prefix], max_new_tokens=2)
    assert torch.equal(read(annotator, [group], sites), before)

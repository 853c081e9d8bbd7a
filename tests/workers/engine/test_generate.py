"""The annotator's own answers, which the recipe `legend` learns from."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from tests.conftest import encode
from workers.engine import attention, generate
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


Done = TypeVar("Done")


def amid(annotator: Annotator, one: Callable[[], object], other: Callable[[], Done]) -> Done:
    """What `other` gives on a thread of its own while `one` stands still in the middle of a forward pass."""
    found: list[Done] = []
    begun: list[object] = []

    def pause(*_args: object) -> None:
        if not begun:
            begun.append(True)
            with ThreadPoolExecutor(1) as pool:
                found.append(pool.submit(other).result(20))

    handle = annotator.blocks[1].register_forward_pre_hook(pause)
    try:
        one()
    finally:
        handle.remove()
    return found[0]


def test_reading_and_answering_at_once_do_not_disturb_each_other(annotator: Annotator) -> None:
    group, sites = encode(annotator, "Who is there?", "Me.", "Nobody at all."), [Site(3, "mean"), Site(2, "request")]

    def reading() -> Tensor:
        return read(annotator, [group], sites)

    def answers() -> list[str]:
        return greedy_answers(annotator, prompts(annotator)[:3], max_new_tokens=4)

    alone = reading(), answers()
    assert torch.equal(amid(annotator, answers, reading), alone[0])
    assert amid(annotator, reading, answers) == alone[1]
    during: list[Tensor] = []
    amid(annotator, lambda: during.append(reading()), answers)
    assert torch.equal(during[0], alone[0])
    spoken: list[list[str]] = []
    amid(annotator, lambda: spoken.append(answers()), reading)
    assert spoken == [alone[1]]


def test_an_error_in_the_progress_keeps_batches_from_being_begun(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def enough(_done: int) -> None:
        raise Enough

    begun: list[int] = []
    answer = generate._answer

    def counting(annotator: Annotator, prompts: list[tuple[int, ...]], longest: int) -> list[str]:
        begun.append(len(prompts))
        return answer(annotator, prompts, longest)

    monkeypatch.setattr(generate, "_answer", counting)
    with pytest.raises(Enough):
        greedy_answers(annotator, prompts(annotator) * 32, max_new_tokens=1, progress=enough)
    assert len(begun) < 40


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

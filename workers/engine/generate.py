"""Letting the annotator speak: greedy answers to prompts, in batches."""

from collections.abc import Callable, Iterator, Sequence

import torch

from workers.engine.accelerator import sent
from workers.engine.annotator import Annotator
from workers.engine.memory import within_memory
from workers.engine.process import side_by_side

_BATCH = 16


def greedy_answers(
    annotator: Annotator,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[str]:
    """The annotator's own answer to each prompt, most likely token first.

    Args:
        annotator: the model; others may read it meanwhile.
        prompts: token ids up to and including the assistant's header.
        max_new_tokens: where an answer is cut.
        progress: told after every batch how many prompts are answered.

    Raises:
        OutOfMemory: memory does not suffice for one prompt.
    """
    answers: dict[int, str] = {}
    batches = list(_by_length(prompts))

    def answer(batch: list[int]) -> list[str]:
        rows = [prompts[i] for i in batch]
        parts = within_memory(annotator.budget, lambda some: _answer(annotator, some, max_new_tokens), rows, _tokens)
        return [text for part in parts for text in part]

    with side_by_side(annotator.passes) as pool:
        spoken = pool.map(answer, batches)
        try:
            for batch, texts in zip(batches, spoken, strict=True):
                answers.update(zip(batch, texts, strict=True))
                progress(len(answers))
        finally:
            pool.shutdown(cancel_futures=True)  # where `progress` raises, nobody wants the batches not yet begun
    return [answers[i] for i in range(len(prompts))]


@torch.inference_mode()
def _answer(annotator: Annotator, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    ids, mask = _left_padded(prompts, annotator.device)
    out = annotator.model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=annotator.template.end_of_turn,
        eos_token_id=annotator.template.end_of_turn,
    )
    texts = annotator.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _tokens(prompts: Sequence[Sequence[int]]) -> int:
    return sum(map(len, prompts))


def _by_length(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return sent(ids, device), sent(mask, device)

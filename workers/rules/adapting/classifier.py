"""The published rule adapter (arXiv 2501.15453): a sequence classifier over "prompt, response A, response B".

Where the paper trains every weight of a 3B model, this trains low-rank adapters (LoRA, arXiv 2106.09685) on the
annotator's own weights; `grafting` puts them there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR

from app.schemas.pairs import Pair
from workers.engine.annotator import Annotator
from workers.engine.grafting import drop_by, own, plant
from workers.engine.memory import within_memory
from workers.rules.adapting.grafting import graft
from workers.rules.adapting.lessons import Progress

LONGEST = 1024
"""Tokens of a pair at most, as published."""

_DECAY = 0.01
_DROPOUT = 0.05
_EDGE = 1e-3
_ENCODED = 64
_MOST_CHARACTERS = 64 * LONGEST
_OPENING, _FIRST, _SECOND, _END = "Conversation:\n", "\n\nResponse A:\n", "\n\nResponse B:\n", "\n\nCritical rules:"

Orders = tuple[list[int], list[int]]
"""Tokens of a pair, chosen first and rejected first."""


@dataclass(frozen=True)
class Course:
    """How a classifier is trained; the published figures but for the rate, which low-rank adapters need higher.

    Attributes:
        epochs, learning_rate, batch, rank: of AdamW and of the adapters.
        seed: of weights, orders and dropout.
    """

    epochs: int = 3
    learning_rate: float = 5e-4
    batch: int = 8
    rank: int = 16
    seed: int = 0


class Classifier:
    """A sequence classifier with R labels on an annotator's weights.

    Args:
        annotator: whose weights it shares.
        rules: R.
        rank: of its adapters.
        seed: of the weights that it begins with.

    Attributes:
        prior: [R] log-odds that a rule is critical before anything is read; training and loading set it.

    Raises:
        CannotClassify: no such classifier can be made of the annotator.
    """

    def __init__(self, annotator: Annotator, rules: int, rank: int, seed: int = 0) -> None:
        self.prior = torch.zeros(rules, device=annotator.device)
        self._annotator = annotator
        self._longest = min(LONGEST, annotator.template.window)
        self._model = graft(annotator, rules, rank, torch.Generator().manual_seed(seed))

    def encode(self, pair: Pair) -> Orders:
        """Tokens of both orders; of what is too long, the prompt loses its beginning and responses their ends."""
        history = "".join(f"{message.role.capitalize()}: {message.content}\n" for message in pair.messages)
        contents = [history[-_MOST_CHARACTERS:], pair.chosen[:_MOST_CHARACTERS], pair.rejected[:_MOST_CHARACTERS]]
        frame, texts = (_OPENING, _FIRST, _SECOND, _END), self._annotator.template.plain
        opening, first, second, end = texts(frame)
        prompt, chosen, rejected = texts(contents)
        room = self._longest - sum(map(len, (opening, first, second, end)))
        shares = fair_shares([len(prompt), len(chosen), len(rejected)], room)
        prompt, chosen, rejected = prompt[len(prompt) - shares[0] :], chosen[: shares[1]], rejected[: shares[2]]
        head = opening + prompt + first
        return head + chosen + second + rejected + end, head + rejected + second + chosen + end

    def likely(self, pairs: Sequence[Pair], tick: Callable[[int], None] = lambda _texts: None) -> Tensor:
        """[P, R] float64 how likely each rule is critical: the mean over both orders, so that neither counts more.

        `tick` is told of every batch how many texts it held, two a pair; it may raise to end it.
        """
        logits = torch.zeros(len(pairs), 2, len(self.prior))
        self._model.eval()
        for start in range(0, len(pairs), _ENCODED):
            texts = [order for pair in pairs[start : start + _ENCODED] for order in self.encode(pair)]
            some = logits[start : start + _ENCODED].flatten(0, 1)
            for batch in _by_length(texts, max(self._annotator.budget.tokens, LONGEST)):
                rows = [texts[place] for place in batch]
                some[batch] = torch.cat(within_memory(self._annotator.budget, self._read, rows, _tokens))
                tick(len(batch))
        return torch.sigmoid(logits).double().mean(dim=1)

    @torch.inference_mode()
    def _read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return self.logits(rows).cpu()

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """[n, R] float32 of n encoded pairs."""
        longest, device = max(map(len, rows)), self.prior.device
        tokens = torch.full((len(rows), longest), int(self._model.config.pad_token_id))
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        with self._precision():
            found = self._model(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False).logits
        logits: Tensor = found.float() + self.prior
        return logits

    def train(
        self,
        pairs: Sequence[Pair],
        targets: Tensor,
        validation: tuple[Sequence[Pair], Tensor],
        course: Course,
        progress: Progress,
    ) -> int:
        """Fit to [P, R] targets, every pair shown in either order by chance; the best epoch is kept.

        Args:
            pairs, targets: what to learn.
            validation: the same of pairs that decide which epoch is the best.
            course: how.
            progress: told how many texts of how many it has read; may raise to end it.

        Returns:
            Which epoch was the best, from 1; 0 if none was better than what it began with.
        """
        done, total = 0, course.epochs * len(pairs) + 2 * (course.epochs + 1) * len(validation[0])

        def tick(texts: int) -> None:
            nonlocal done
            done += texts
            progress(done, total)

        self.prior = torch.logit(targets.float().mean(dim=0).clamp(_EDGE, 1 - _EDGE)).to(self.prior)
        source = torch.Generator().manual_seed(course.seed)
        drop_by(self._model, torch.Generator(self.prior.device).manual_seed(course.seed), _DROPOUT)
        step = _Descent([weight for weight in self.parameters() if weight.requires_grad], course, len(pairs))
        best, least, kept = 0, self._loss(validation, tick), self.tensors
        for epoch in range(1, course.epochs + 1):
            self._model.train()
            orders = torch.randint(2, (len(pairs),), generator=source).tolist()
            for batch in torch.split(torch.randperm(len(pairs), generator=source), course.batch):
                texts = [self.encode(pairs[place])[orders[place]] for place in batch.tolist()]
                self._accumulate(texts, targets[batch], tick)
                step()
            loss = self._loss(validation, tick)
            if loss < least:
                best, least, kept = epoch, loss, self.tensors
        self.load(kept)
        return best

    def parameters(self) -> Iterator[nn.Parameter]:
        """All its weights, those of the annotator among them."""
        return iter(self._model.parameters())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is its own, by peft's names, and the prior."""
        state = own(self._model) | {"prior": self.prior}
        return {name: part.detach().float().cpu().clone() for name, part in state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what another one's `tensors` were.

        Raises:
            ValueError: they are of another shape, or not all of them are there.
        """
        shapes = {name: part.shape for name, part in (own(self._model) | {"prior": self.prior}).items()}
        if {name: part.shape for name, part in tensors.items()} != shapes:
            raise ValueError("not the numbers of such a classifier")
        plant(self._model, {name: part for name, part in tensors.items() if name != "prior"})
        self.prior = tensors["prior"].to(self.prior)

    def _accumulate(self, texts: Sequence[Sequence[int]], targets: Tensor, tick: Callable[[int], None]) -> None:
        """Gradients of the mean loss of a batch, part by part: what a pass must remember of its tokens fills memory."""
        for part in _by_length(texts, LONGEST):
            logits = self.logits([texts[place] for place in part])
            loss = binary_cross_entropy_with_logits(logits, targets[part].to(logits))
            torch.autograd.backward(loss * (len(part) / len(texts)))
            tick(len(part))

    def _loss(self, lessons: tuple[Sequence[Pair], Tensor], tick: Callable[[int], None]) -> float:
        likely = self.likely(lessons[0], tick)
        return float(binary_cross_entropy(likely, lessons[1].to(likely)))

    def _precision(self) -> AbstractContextManager[object]:
        """Adapters are float32 beside weights of half precision; products are of the weights' precision."""
        dtype, device = self._annotator.dtype, self._annotator.device
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


class _Descent:
    """AdamW whose rate falls to zero in a straight line; called when the gradients of a batch are there."""

    def __init__(self, weights: list[nn.Parameter], course: Course, pairs: int) -> None:
        self._weights = weights
        self._steps = course.epochs * -(-pairs // course.batch)
        self._optimizer = torch.optim.AdamW(weights, lr=course.learning_rate, weight_decay=_DECAY)
        self._schedule = LambdaLR(self._optimizer, lambda step: 1 - step / self._steps)

    def __call__(self) -> None:
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()


def fair_shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each part fits into `room`: what is shorter than an equal share stays whole, the rest share alike."""
    shares = [0] * len(lengths)
    for left, place in zip(
        range(len(lengths), 0, -1), sorted(range(len(lengths)), key=lengths.__getitem__), strict=True
    ):
        shares[place] = min(lengths[place], room // left)
        room -= shares[place]
    return shares


def _tokens(rows: Sequence[Sequence[int]]) -> int:
    return len(rows) * max(map(len, rows))


def _by_length(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Places of rows of about the same length, at most so many tokens together, or one row."""
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        if batch and (len(batch) + 1) * len(rows[place]) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch

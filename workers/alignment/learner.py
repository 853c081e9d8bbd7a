"""A model that is taught, or read in the same way: packed passes, with gradients where somebody wants them.

What is trained is float32 whatever the precision of the annotator. Products are of that precision, by autocast, and the
residual stream between them is float32 (`workers.engine.lora.twin_of`).
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from app.schemas.alignment import LoraSettings
from workers.alignment.batches import Predictions, answer_rows
from workers.alignment.losses import log_probabilities, per_response
from workers.engine.annotator import Annotator, changed
from workers.engine.attention import packed
from workers.engine.grafting import drop_by, twin
from workers.engine.lora import add, modules_of, twin_of
from workers.engine.packing import Group, Layout
from workers.engine.taps import recording

ADAPTER = "learnt"
"""What the adapter that is trained is called in the model."""

_ROWS = 1024
"""Rows of logits that are widened to float32 at a time; each is as long as the vocabulary."""


@dataclass(frozen=True)
class Learner:
    """A model and what of it is trained.

    Attributes:
        annotator: the model, with modules of its own.
        precision: dtype of its products.
        weights: what is trained, by name, in float32; nothing where it is only read.
        source: where dropout is drawn from.
    """

    annotator: Annotator
    precision: torch.dtype
    weights: Mapping[str, nn.Parameter] = field(default_factory=dict)
    source: torch.Generator | None = None

    @classmethod
    def reading(cls, annotator: Annotator) -> "Learner":
        """One that learns nothing."""
        return cls(twin_of(annotator, annotator.revision), annotator.dtype)

    @classmethod
    def of_adapter(
        cls, annotator: Annotator, lora: LoraSettings, seed: int, last_block: int | None = None
    ) -> "Learner":
        """One that learns an adapter, called `ADAPTER`, beside those that there are; the weights are shared.

        Args:
            annotator: whose weights.
            lora: of which shape.
            seed: of what it begins with and of dropout.
            last_block: the last one that has it, if not all have.

        Raises:
            UnusableAdapter: the annotator has no such modules.
        """
        made = twin_of(annotator, f"{annotator.revision}+{ADAPTER}")
        modules = modules_of(made, lora.targets, annotator.depth - 1 if last_block is None else last_block)
        begin = torch.Generator().manual_seed(seed)
        weights = add(made, dict.fromkeys(modules, lora.rank), ADAPTER, begin, lora.alpha / lora.rank)
        source = torch.Generator(annotator.device).manual_seed(seed)
        drop_by(made.model, source, lora.dropout, ADAPTER)
        return cls(made, annotator.dtype, weights, source)

    @classmethod
    def of_all_weights(cls, annotator: Annotator) -> "Learner":
        """One that learns every weight; the annotator's are copied."""
        model = copy.deepcopy(twin(annotator.model)).float().requires_grad_()
        made = changed(annotator, model, f"{annotator.revision}+{ADAPTER}")
        return cls(made, annotator.dtype, dict(model.named_parameters()))

    def log_likelihoods(self, groups: Sequence[Group]) -> Tensor:
        """[n] float32 log π of every response of one packed pass, its end of turn included."""
        layout = Layout.of(groups, self.annotator.device)
        asked = Predictions.of(layout)
        with self._products(), packed(layout):
            logits = self.annotator.model(
                input_ids=layout.tokens[None],
                position_ids=layout.positions[None],
                use_cache=False,
                logits_to_keep=asked.before,
            ).logits[0]
        parts = zip(torch.split(logits, _ROWS), torch.split(asked.tokens, _ROWS), strict=True)
        chances = torch.cat([log_probabilities(some, tokens) for some, tokens in parts])
        return per_response(chances, asked.owners, len(layout.parents))

    def hidden(self, groups: Sequence[Group], blocks: Sequence[int]) -> Tensor:
        """[m, L, d] float32 output of L blocks at the m tokens of the responses of one packed pass, one after another.

        No block behind the last of them is run.
        """
        layout = Layout.of(groups, self.annotator.device)
        rows = answer_rows(layout)
        with (
            self._products(),
            packed(layout),
            recording(blocks, lambda _block, hidden: hidden[rows].float()) as activations,
        ):
            self.annotator.decoder(input_ids=layout.tokens[None], position_ids=layout.positions[None], use_cache=False)
        return torch.stack([activations[block] for block in blocks], dim=1)

    def _products(self) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.annotator.device.type, self.precision)

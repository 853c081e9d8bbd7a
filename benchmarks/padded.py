"""What a careful user of transformers writes: sorted by length, padded on the right, bfloat16 where the machine has it.

Every response brings its own prompt, and all layers run and are kept, because `output_hidden_states` gives all or none.
The vocabulary head is left out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from app.schemas.pairs import Pair

_BATCH = 4
"""On two cores larger ones were slower."""


class PaddedWay:
    """Padded batches of whole sequences.

    Args:
        folder: a model folder.
        dtype: name of the dtype of weights and activations.
        threads: cores to use, all of them for one pass, as torch does by default.
    """

    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self._layer = self._model.config.num_hidden_layers // 2
        self._direction = torch.nn.functional.normalize(torch.randn(self._model.config.hidden_size), dim=0)

    @torch.inference_mode()
    def margins(self, pairs: Sequence[Pair]) -> list[float]:
        """One projected margin a pair, read at the last token in the middle of the model."""
        texts = [self._rendered(pair, response) for pair in pairs for response in (pair.chosen, pair.rejected)]
        encoded = self._tokenizer(texts, add_special_tokens=False).input_ids
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        scores = torch.empty(len(encoded))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            scores[rows] = self._last([encoded[i] for i in rows]) @ self._direction
        return (scores[::2] - scores[1::2]).tolist()

    def _rendered(self, pair: Pair, response: str) -> str:
        messages = [*(message.model_dump() for message in pair.messages), {"role": "assistant", "content": response}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    def _last(self, rows: list[list[int]]) -> Tensor:
        """[n, d] activations of each row's last token."""
        batch = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        states = self._model(**batch, output_hidden_states=True, use_cache=False).hidden_states[self._layer]
        last: Tensor = states[torch.arange(len(rows)), batch["attention_mask"].sum(1) - 1]
        return last.float()

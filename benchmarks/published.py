"""The published Legend scripts' way of working, re-implemented from its description, as the baseline for speed.

float32, one sequence at a time, prompt and response joined by a newline, every hidden state and the whole vocabulary's
logits computed although only the last layer's last token is read, and two full passes a pair.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from app.schemas.pairs import Pair


class PublishedWay:
    """The baseline annotator.

    Args:
        folder: a model folder.
        threads: cores to use, all of them for one pass, as torch does by default.
    """

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._direction = torch.nn.functional.normalize(torch.randn(self._model.config.hidden_size), dim=0)

    @torch.no_grad()
    def margins(self, pairs: Sequence[Pair]) -> list[float]:
        """One projected margin a pair."""
        return [float((self._last(p, p.chosen) - self._last(p, p.rejected)) @ self._direction) for p in pairs]

    def _last(self, pair: Pair, response: str) -> Tensor:
        prompt = self._tokenizer.apply_chat_template(
            [message.model_dump() for message in pair.messages], tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(f"{prompt}\n{response}", return_tensors="pt").input_ids
        out = self._model(ids, output_hidden_states=True)
        last: Tensor = out.hidden_states[-1][0, -1]
        return last

"""A reward model as the engine reads it: prompts that dialogues share are computed once, batches are shared.

The reward is the head's number at the end of a dialogue, after the final norm. So a reward model is to a batch what a
direction of a model of its own weights is, with the head as the direction.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from app.schemas.pairs import Message
from app.schemas.rewards import RewardCard
from workers.engine import attention
from workers.engine.annotator import Annotator, assemble
from workers.engine.errors import EngineError, TemplateRefused, TooLong
from workers.engine.forward import read
from workers.engine.packing import Branch, Group
from workers.engine.reference import TOLERANCES
from workers.engine.sites import Site
from workers.engine.template import ChatTemplate
from workers.engine.variant import Variant
from workers.rewards.errors import UnusableModel
from workers.rewards.model import RewardModel, load_reward_model

_MARK = "\ue000"
_TOO_LONG = "prompt and response are longer than the reward model's window"
_PROBES = (
    ([Message(role="user", content="How do I sharpen a kitchen knife?")], ["Hold it at a steady angle.", "No."]),
    ([Message(role="user", content="Is this mushroom safe?")], ["I can't tell from here. Ask somebody who can.", ""]),
)


@dataclass(frozen=True, eq=False)
class ServedReward:
    """A reward model in memory, its rewards a scale that is calibrated as it is.

    Attributes:
        card: what is known of it.
        model: makes tokens of dialogues.
        variant: what passes read.
        head: [d] weights of the head, and its bias.
    """

    card: RewardCard
    model: RewardModel
    variant: Variant
    head: tuple[Tensor, float]

    @property
    def id(self) -> str:
        """The name under which requests ask for it."""
        return self.card.id

    def calibrate(self, raw_margin: float) -> float:
        """The raw margin: rewards are in the unit of the loss, log-odds."""
        return raw_margin

    def level(self, margin: float) -> int | None:
        """How many of the level edges a margin reaches; None where no pairs were held out."""
        edges = self.card.after.level_edges if self.card.after else []
        return bisect_right(edges, margin) if edges else None

    @property
    def reads(self) -> tuple[Site, ...]:
        """The last token of a dialogue, after the final norm."""
        return (Site(self.variant.annotator.depth, "end_of_turn"),)

    def scores(self, activations: Tensor) -> Tensor:
        """[n] rewards of n responses from their [n, 1, d] activations."""
        weight, bias = self.head
        return activations[:, 0] @ weight + bias

    def group(self, messages: Sequence[Message], responses: Sequence[str], *, truncate: bool = False) -> Group:
        """Tokens of one prompt and of K responses to it, as the model was trained on them.

        Text that looks like a control token is text.

        Raises:
            TooLong: a dialogue does not fit the window and `truncate` is off, or cannot be cut enough.
            TemplateRefused: the template does not take these roles.
        """
        try:
            plain = self._template.encode(messages, responses, truncate=truncate)
        except TooLong as refusal:
            raise TooLong(_TOO_LONG, **refusal.counts) from None
        texts = [*(message.content for message in messages), *responses]
        if plain.truncated or self._template.looks_controlled(texts):
            # Text by text; else as a whole, as it was trained on: a template may trim texts, say.
            dialogues = [[*plain.prefix, *branch.tokens[: branch.content], *self._ending] for branch in plain.branches]
        else:
            dialogues = [self.model.encode(messages, response) for response in responses]
        dialogues = [self._read_up_to(tokens) for tokens in dialogues]
        shared = min(_alike(dialogues), len(plain.prefix), min(map(len, dialogues)) - 1)
        contents = [branch.content for branch in plain.branches]
        return _group(dialogues, shared, contents, plain.prompt, truncated=plain.truncated)

    def whole(self, text: str, prompt: str = "", *, truncate: bool = False) -> Group:
        """Tokens of a dialogue that is written out, read as it is.

        One that ends its turn is given the end that the template writes; padding is left out.

        Args:
            text: prompt and response.
            prompt: the prompt alone, which others may share.
            truncate: cut the beginning of what does not fit.

        Raises:
            TooLong: it does not fit the window and `truncate` is off.
            TemplateRefused: it is shorter than any dialogue.
        """
        window, most = self.model.window, self.model.window * self._longest_token
        if len(text) > most and not truncate:
            raise TooLong("a query is longer than the reward model's window", window=window)
        tokens = self._tokens(self._finished(text)[-most:])
        if (excess := len(tokens) - window) > 0 and not truncate:
            raise TooLong("a query is longer than the reward model's window", tokens=len(tokens), window=window)
        cut = len(text) > most or excess > 0
        tokens = self._read_up_to(tokens[max(0, excess) :])
        if len(tokens) < 2:
            raise TemplateRefused("a query is a whole dialogue as the reward model's chat template writes it")
        shared = 1 if cut else _alike([tokens[:-1], self._tokens(prompt)])
        return _group([tokens], max(1, shared), [0], 0, truncated=cut)

    def _tokens(self, text: str) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _read_up_to(self, tokens: Sequence[int]) -> list[int]:
        """Up to the token that transformers reads: the last one that is no padding, which the end of a turn can be."""
        end = len(tokens)
        while end > 1 and tokens[end - 1] == self.model.tokenizer.pad_token_id:
            end -= 1
        return list(tokens[:end])

    def _finished(self, text: str) -> str:
        """A dialogue with the template's own end in the place of any end of turn, end of sequence or padding."""
        tokenizer = self.model.tokenizer
        ends = {str(tokenizer.pad_token), str(tokenizer.eos_token), self._written_end.strip()} - {"", "None"}
        body, ended = text, False
        while (found := next((end for end in ends if body.rstrip().endswith(end)), None)) is not None:
            body, ended = body.rstrip().removesuffix(found), True
        while tokenizer.pad_token != tokenizer.bos_token and body.startswith(str(tokenizer.pad_token)):
            body = body.removeprefix(str(tokenizer.pad_token))
        return body + self._written_end if ended else body

    @cached_property
    def _written_end(self) -> str:
        """What the template writes after a response."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
        return str(self.model.tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(_MARK)[2]

    @cached_property
    def _ending(self) -> list[int]:
        return self._tokens(self._written_end)

    @cached_property
    def _template(self) -> ChatTemplate:
        """Leaves room for whatever the template writes behind the end of a turn."""
        return ChatTemplate(self.model.tokenizer, self.model.window - max(0, len(self._ending) - 1))

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.model.tokenizer.get_vocab()))


def served(card: RewardCard, folder: Path, beside: Annotator) -> ServedReward:
    """Load a reward model for the passes of an annotator's worker.

    Args:
        card: its card.
        folder: the files that transformers loads.
        beside: the annotator, whose device, precision and budget it shares.

    Raises:
        UnusableModel: it is no reward model, or one that the engine reads otherwise than transformers does.
    """
    try:
        model = load_reward_model(str(folder), folder, device="cpu", dtype="float32")
        head = getattr(model.model, "score", None)
        if not isinstance(head, nn.Linear):
            raise UnusableModel(f"reward model {card.id} is no causal language model with a head: it cannot be served")
        _settle(model.model, beside)
        dialogues = [model.encode(messages, side) for messages, sides in _PROBES for side in sides]
        plain = model.rewards(dialogues)
        model.model.set_attn_implementation(attention.NAME)
        made = assemble(card.model, card.digest, model.model, model.tokenizer, passes=beside.passes)
        weight = head.weight[0].detach().float().cpu()
        bias = float(head.bias[0]) if head.bias is not None else 0.0
        read_by = ServedReward(card, model, Variant(replace(made, budget=beside.budget), None), (weight, bias))
        _check(read_by, plain)
    except EngineError as error:
        raise UnusableModel(f"reward model {card.id}: {error}") from error
    return read_by


def _settle(model: PreTrainedModel, beside: Annotator) -> None:
    """Bring all but the head to the annotator's precision, and it all to its device.

    To load it in half precision would make that torch's default meanwhile, also for passes on other threads.
    """
    for parameter in model.base_model.parameters():
        parameter.data = parameter.data.to(beside.dtype)
    model.to(beside.device)


def _check(made: ServedReward, plain: Tensor) -> None:
    """Refuse what the engine reads otherwise than transformers does.

    Raises:
        UnusableModel: its rewards of some dialogues are others.
    """
    if made.variant.annotator.final_norm is None:
        raise UnusableModel(f"reward model {made.id} has no final norm that is known: it cannot be served")
    groups = [made.group(messages, sides) for messages, sides in _PROBES]
    activations = read(made.variant.annotator, groups, made.reads)
    allowed = TOLERANCES[made.variant.annotator.dtype_name] * activations.norm(dim=-1).max() * made.head[0].norm()
    distance = (made.scores(activations) - plain).abs().max()
    if not distance <= allowed:
        raise UnusableModel(f"packed and plain rewards of {made.id} differ by {distance:.2g} (allowed {allowed:.2g})")


def _alike(dialogues: Sequence[Sequence[int]]) -> int:
    """With how many tokens all begin."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*dialogues, strict=False)))


def _group(
    dialogues: Sequence[Sequence[int]], shared: int, contents: Sequence[int], prompt: int, *, truncated: bool
) -> Group:
    """Dialogues that begin with the same `shared` tokens."""
    branches = tuple(
        Branch(tuple(tokens[shared:]), content) for tokens, content in zip(dialogues, contents, strict=True)
    )
    return Group(tuple(dialogues[0][:shared]), branches, prompt, (shared - 1, shared), truncated)

"""The `logits` rater: the annotator is asked of every rule whether a response keeps it.

Instruction and conversation come first and the rule last, so that all rules are endings of one shared beginning that is
computed once. Of each ending only the last token goes through the vocabulary head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from app.schemas.pairs import Message
from workers.engine.accelerator import watched
from workers.engine.annotator import Annotator
from workers.engine.answers import next_token
from workers.engine.errors import NotFinite, PairRefused, refusal_of
from workers.engine.packing import Group, pack
from workers.engine.process import side_by_side
from workers.rules.errors import CannotAsk
from workers.rules.rating import Answered, Ratings

Answer = Literal["Yes", "No", "Irrelevant"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)

INSTRUCTION = (
    "Below are a conversation between a user and an assistant, the assistant's last response, and one rule about that "
    "response. Answer with one word: Yes if the response keeps the rule, No if it breaks the rule, Irrelevant if the "
    "rule has nothing to do with this conversation.\n\nConversation:\n"
)

_KEYS = 1 << 18
"""Keys that the branches of one pass attend to at most, all branches together; their copies are what fills memory."""


@dataclass(frozen=True)
class LogitRater:
    """Rates by P(Yes) − P(No), each over the whole vocabulary at the place of the answer.

    Attributes:
        annotator: who is asked.
        rules: texts of the R rules.
    """

    annotator: Annotator
    rules: Sequence[str]
    words: dict[Answer, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", first_tokens(self.annotator.tokenizer))

    def rate(
        self, items: Sequence[Answered], *, truncate: bool = False, rules: Sequence[Sequence[int]] | None = None
    ) -> list[Ratings | PairRefused]:
        """Ratings of each item; the reason instead where it cannot be asked about.

        Args:
            items: what to rate.
            truncate: whether conversations that do not fit are cut.
            rules: of each item, the places of the rules to ask about; of the others score and relevance are zero.
        """
        places = [range(len(self.rules))] * len(items) if rules is None else rules
        outcomes = [self._encode(item, some, truncate) for item, some in zip(items, places, strict=True)]
        asked = [group for outcome in outcomes if isinstance(outcome, list) for group in outcome]
        answers = iter(self.answers(asked))
        rated: list[Ratings | PairRefused] = []
        for outcome, some in zip(outcomes, places, strict=True):
            if isinstance(outcome, PairRefused):
                rated.append(outcome)
            else:
                rated.append(self._ratings(outcome, [next(answers) for _ in outcome], some))
        return rated

    def answers(self, groups: Sequence[Group]) -> list[Tensor | PairRefused]:
        """[B, 3] probabilities of `ANSWERS` after each of the B branches of every group.

        Where the forward pass fails on a group even alone, or gives no finite numbers, there is the reason instead.
        """
        parts = [list(_within_memory(group)) for group in groups]
        flat = [part for split in parts for part in split]
        batches = list(pack(flat, self.annotator.budget.tokens))
        read: dict[int, Tensor | PairRefused] = {}
        with side_by_side(self.annotator.passes) as pool:
            found = pool.map(lambda batch: self._answer([flat[i] for i in batch]), batches)
            for batch, answers in zip(batches, found, strict=True):
                read.update(zip(batch, answers, strict=True))
        ordered = (read[index] for index in range(len(flat)))
        return [_joined([next(ordered) for _ in split]) for split in parts]

    def ask(
        self, messages: Sequence[Message], response: str, rules: Sequence[int] | None = None, *, truncate: bool = False
    ) -> Group:
        """The question about one response, a branch for each rule, or for each of the rules at these places.

        Raises:
            TooLong: it does not fit the annotator's window.
        """
        history = "".join(f"{message.role.capitalize()}: {message.content}\n" for message in messages)
        closing = f"\nThe assistant's last response:\n{response}\n\n"
        some = self.rules if rules is None else [self.rules[place] for place in rules]
        endings = [f"Rule: {rule}" for rule in some]
        return self.annotator.template.ask(INSTRUCTION, history, closing, endings, truncate=truncate)

    def _ratings(
        self, groups: Sequence[Group], answers: Sequence[Tensor | PairRefused], rules: Sequence[int]
    ) -> Ratings | PairRefused:
        """From the [B, 3] probabilities of `ANSWERS` of K responses to B of the rules."""
        if refused := [outcome for outcome in answers if isinstance(outcome, PairRefused)]:
            return refused[0]
        told = torch.stack([outcome for outcome in answers if isinstance(outcome, Tensor)])
        yes, no, irrelevant = told.unbind(dim=2)
        scores, relevance = torch.zeros(len(yes), len(self.rules)), torch.zeros(len(self.rules))
        scores[:, list(rules)] = yes - no
        relevance[list(rules)] = 1 - irrelevant.mean(dim=0)
        return Ratings(scores, relevance, any(group.truncated for group in groups))

    def _encode(self, item: Answered, rules: Sequence[int], truncate: bool) -> list[Group] | PairRefused:
        try:
            return [self.ask(item.messages, text, rules, truncate=truncate) for text in item.responses]
        except PairRefused as refusal:
            return refusal

    def _answer(self, groups: Sequence[Group]) -> list[Tensor | PairRefused]:
        """[B, 3] of every group of a batch; one that fails is tried by halves, so that only the guilty group fails."""
        try:
            with watched():
                likely = next_token(self.annotator, groups)
                told = [likely[:, ids.to(likely.device)].sum(dim=1) for ids in self.words.values()]
                answers = torch.stack(told, dim=1).cpu()
            if not torch.isfinite(answers).all():
                raise NotFinite("the annotator's answers are not finite numbers")
        except Exception as error:
            if len(groups) == 1:
                return [refusal_of(error)]
        else:
            return list(torch.split(answers, [len(group.branches) for group in groups]))
        middle = len(groups) // 2
        return self._answer(groups[:middle]) + self._answer(groups[middle:])


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[Answer, Tensor]:
    """Ids of the tokens that each answer may begin with: in either case, with a blank before it or without.

    What two answers could begin with (a lone blank, in vocabularies of characters) counts for neither.

    Raises:
        CannotAsk: nothing is left to tell one answer from the others.
    """
    begin: dict[Answer, set[int]] = {}
    for answer in ANSWERS:
        ways = [blank + word for blank in ("", " ") for word in (answer, answer.lower(), answer.upper())]
        begin[answer] = {tokenizer.encode(way, add_special_tokens=False)[0] for way in ways}
    own = {
        answer: ids - set().union(*(other for name, other in begin.items() if name != answer))
        for answer, ids in begin.items()
    }
    if empty := [answer for answer, ids in own.items() if not ids]:
        raise CannotAsk(f"the annotator's vocabulary cannot tell {empty[0]} from the other answers by its first token")
    return {answer: torch.tensor(sorted(ids)) for answer, ids in own.items()}


def _joined(answers: Sequence[Tensor | PairRefused]) -> Tensor | PairRefused:
    """The answers of a group's parts one after another; a refusal of one part is one of all."""
    refused = [outcome for outcome in answers if isinstance(outcome, PairRefused)]
    return refused[0] if refused else torch.cat([outcome for outcome in answers if isinstance(outcome, Tensor)])


def _within_memory(group: Group) -> Iterator[Group]:
    """The group with so few branches a pass that the copies of the beginning's keys fit into memory."""
    longest = max(len(branch.tokens) for branch in group.branches)
    most = max(1, _KEYS // (len(group.prefix) + longest))
    for start in range(0, len(group.branches), most):
        yield replace(group, branches=group.branches[start : start + most])

"""From messages to tokens: the chat template applied so that text can never become a control token.

A template is rendered once per sequence of roles, with marks in place of the contents; what stands between the marks
is the template's own text and may hold control tokens, what a user wrote is encoded as plain text and put in between.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from app.schemas.pairs import Message
from workers.engine.errors import TemplateRefused, TooLong
from workers.engine.packing import Branch, Group

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
)
"""What an annotator without a chat template of its own gets."""

_MARK = "\ue000{}\ue001"
_SHORT = 1 << 13  # characters that are tokenised sooner than other threads would begin to


class ChatTemplate:
    """Encodes a prompt and its responses for one annotator.

    Args:
        tokenizer: the annotator's tokenizer; its own chat template is used, or `PLAIN_TEMPLATE` where it has none.
        window: the most tokens that one sequence (prompt, response, end of turn) may hold.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, window: int) -> None:
        self._tokenizer = tokenizer
        self._source = str(tokenizer.chat_template or PLAIN_TEMPLATE)
        self._text = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._text.encode_special_tokens = True
        self._text.no_truncation()
        self._control = _control_tokens(tokenizer)
        self._longest_token = max(len(token) for token in tokenizer.get_vocab())
        self.window = window
        self._hopeless = window * self._longest_token
        self._frame = lru_cache(maxsize=256)(self._render_frame)

    @property
    def digest(self) -> str:
        """`sha256:` digest of the template's source."""
        return "sha256:" + hashlib.sha256(self._source.encode()).hexdigest()

    @property
    def end_of_turn(self) -> int:
        """The token that ends the assistant's turn."""
        return self._frame(("user",))[-1][0]

    def encode(self, messages: Sequence[Message], responses: Sequence[str], *, truncate: bool = False) -> Group:
        """Tokens of one prompt and of the responses that share it.

        Args:
            messages: the conversation so far, ending before the assistant's turn.
            responses: K answers to it; an empty one is scored from its end-of-turn token.
            truncate: cut the oldest words of the prompt, never a response, until everything fits.

        Raises:
            TooLong: a sequence is longer than the window and `truncate` is off, or cannot be cut enough.
            TemplateRefused: the template does not accept these roles.
        """
        frame = self._frame(tuple(message.role for message in messages))
        texts = [*(message.content for message in messages), *responses]
        self._refuse_hopeless(texts, len(messages), truncate)
        encoded = self.plain([text[-self._hopeless :] for text in texts])
        contents, answers = encoded[: len(messages)], encoded[len(messages) :]
        fixed = sum(map(len, frame))
        longest = max(map(len, answers))
        excess = fixed + sum(map(len, contents)) + longest - self.window
        if excess > 0:
            counts = {
                "prompt": sum(map(len, contents)),
                "longest_response": longest,
                "template": fixed,
                "window": self.window,
            }
            if not truncate:
                raise TooLong("prompt and response are longer than the annotator's window", **counts)
            if excess >= counts["prompt"]:
                raise TooLong("a response alone is longer than the annotator's window; responses are not cut", **counts)
            _cut_oldest(contents, excess)
        branches = tuple(_branch(answer, frame[-1]) for answer in answers)
        return _assemble(frame, contents, branches, truncated=excess > 0)

    def fit(
        self,
        messages: Sequence[Message],
        responses: Sequence[str],
        *,
        kept: int = 0,
        query: int | None = None,
        response: int | None = None,
    ) -> Group:
        """Tokens of one prompt and of the responses that share it, both cut to a most.

        Args:
            messages: the conversation so far, ending before the assistant's turn.
            responses: K answers to it.
            kept: how many characters at the beginning of the first message are never cut: an instruction.
            query: tokens of all the other texts at most, the oldest words cut first; as many as the
                window leaves where left out.
            response: tokens of a response at most; one that is cut has no end of turn.

        Raises:
            TooLong: even so a sequence is longer than the window.
            TemplateRefused: the template does not accept these roles.
        """
        frame = self._frame(tuple(message.role for message in messages))
        beyond = None if response is None else (response + 1) * self._longest_token
        first = messages[0].content
        texts = [first[kept:], *(message.content for message in messages[1:])]
        whole = [first[:kept], *(answer[:beyond] for answer in responses)]
        self._refuse_hopeless(whole, 0, False)
        opening, *encoded = self.plain([*whole, *(text[-self._hopeless :] for text in texts)])
        answers, contents = encoded[: len(responses)], encoded[len(responses) :]
        branches = tuple(_branch(answer, frame[-1], response) for answer in answers)
        counts = {
            "prompt": sum(map(len, contents)),
            "longest_response": max(len(branch.tokens) for branch in branches),
            "template": sum(map(len, frame[:-1])) + len(opening),
            "window": self.window,
        }
        room = self.window - counts["template"] - counts["longest_response"]
        excess = max(0, counts["prompt"] - (max(0, room) if query is None else query))
        if counts["prompt"] - excess > room:
            raise TooLong("prompt and response are longer than the annotator's window", **counts)
        _cut_oldest(contents, excess)
        contents[0] = opening + contents[0]
        group = _assemble(frame, contents, branches, truncated=excess > 0)
        return replace(group, prompt=group.prompt - len(opening))

    def ask(self, opening: str, history: str, closing: str, endings: Sequence[str], *, truncate: bool = False) -> Group:
        """Tokens of one user turn that begins alike and ends in several ways, each up to where its answer would begin.

        Args:
            opening, history, closing: how the turn begins.
            endings: how it goes on; each becomes a branch, whose last token is the one before the answer.
            truncate: cut the oldest words of `history`, and of nothing else, until everything fits.

        Raises:
            TooLong: a turn is longer than the window and `truncate` is off, or cannot be cut enough.
        """
        head, tail, _ = self._frame(("user",))
        self._refuse_hopeless([history, opening, closing, *endings], 1, truncate)
        texts = [text[-self._hopeless :] for text in (opening, history, closing, *endings)]
        first, middle, last, *ways = self.plain(texts)
        longest, fixed = max(map(len, ways)), len(head) + len(first) + len(last) + len(tail)
        excess = fixed + len(middle) + longest - self.window
        if excess > 0 and (not truncate or excess > len(middle)):
            raise TooLong(
                "a conversation with the question about it is longer than the annotator's window",
                conversation=len(middle) + len(last),
                question=longest + fixed - len(last),
                window=self.window,
            )
        _cut_oldest([middle], excess)
        prefix = (*head, *first, *middle, *last)
        branches = tuple(Branch(tokens=(*way, *tail), content=len(way)) for way in ways)
        return Group(prefix, branches, len(middle), (len(prefix) - 1, len(prefix)), excess > 0)

    def looks_controlled(self, texts: Sequence[str]) -> bool:
        """Whether any text holds what looks like a control token."""
        return any(control in text for text in texts for control in self._control.values())

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts by themselves, without the template; none of them becomes a control token.

        Raises:
            TemplateRefused: one holds a control token that cannot be written as text.
        """
        batches = [[text] for text in texts] if sum(map(len, texts)) <= _SHORT else [list(texts)]
        found = (self._text.encode_batch_fast(batch, add_special_tokens=False) for batch in batches)
        encoded = [e.ids for batch in found for e in batch]
        for index, ids in enumerate(encoded):
            if not self._control.keys().isdisjoint(ids):
                encoded[index] = self._encode_apart(texts[index])
        return encoded

    def pieces(self, text: str) -> list[str]:
        """What each token of `plain` stands for: together the text. The first of several for one character has it."""
        parts = [text]
        if not self._control.keys().isdisjoint(self._text.encode(text, add_special_tokens=False).ids):
            parts = self._apart(text)
        encoded = [self._text.encode(part, add_special_tokens=False) for part in parts]
        return [piece for part, e in zip(parts, encoded, strict=True) for piece in _cut(part, e.offsets)]

    def _encode_apart(self, text: str) -> list[int]:
        """Encode a text that a vocabulary would read control tokens in."""
        ids = [i for e in self._text.encode_batch_fast(self._apart(text), add_special_tokens=False) for i in e.ids]
        if not self._control.keys().isdisjoint(ids):
            raise TemplateRefused("a text holds a control token of the annotator that cannot be written as text")
        return ids

    def _apart(self, text: str) -> list[str]:
        """The parts of a text that is broken inside every control token in it."""
        parts = [text]
        for control in sorted(self._control.values(), key=len, reverse=True):
            parts = [part for whole in parts for part in _broken(whole, control)]
        return parts

    def _refuse_hopeless(self, texts: Sequence[str], prompt_texts: int, truncate: bool) -> None:
        """Refuse what cannot fit however it is tokenised, before a tokenizer spends seconds on it."""
        for index, text in enumerate(texts):
            if len(text) > self._hopeless and not (truncate and index < prompt_texts):
                least = len(text) // self._longest_token
                raise TooLong("a text is longer than the annotator's window", at_least=least, window=self.window)

    def _render_frame(self, roles: tuple[str, ...]) -> tuple[list[int], ...]:
        """Tokens before, between and after the contents of `roles` and of the response; the last is the end of turn."""
        marks = [_MARK.format(i) for i in range(len(roles) + 1)]
        messages = [{"role": role, "content": mark} for role, mark in zip((*roles, "assistant"), marks, strict=True)]
        try:
            rest = self._tokenizer.apply_chat_template(messages, chat_template=self._source, tokenize=False)
        except TemplateError as error:
            raise TemplateRefused(f"the annotator's chat template refuses the roles {', '.join(roles)}") from error
        pieces = []
        for mark in marks:
            before, found, rest = str(rest).partition(mark)
            if not found or mark in rest:
                raise TemplateRefused("the annotator's chat template does not show every message exactly once")
            pieces.append(self._encode_template(before))
        return (*pieces, [self._end_of_turn(str(rest))])

    def _encode_template(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _end_of_turn(self, tail: str) -> int:
        """The first control token that the template puts after a response; the end-of-sequence token where none."""
        after = [token for token in self._encode_template(tail) if token in self._control]
        eos = self._tokenizer.eos_token_id
        if not after and eos is None:
            raise TemplateRefused("the annotator has neither an end-of-turn nor an end-of-sequence token")
        return int(after[0] if after else eos)


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Ids and texts of all control tokens, those without a named role included."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {i: text for i, text in (named | added).items() if i != tokenizer.unk_token_id}


def _broken(text: str, control: str) -> list[str]:
    """The parts of a text that is cut after the first character of every `control` in it."""
    first, *others = text.split(control)
    parts = [first]
    for other in others:
        parts[-1] += control[0]
        parts.append(control[1:] + other)
    return parts


def _cut(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """A text cut where its tokens end; what no token says it covers, such as a space, goes with the one after it."""
    ends = list(accumulate((stop for _, stop in offsets), max))
    ends[-1:] = [len(text)] if ends else []
    return [text[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def _cut_oldest(contents: list[list[int]], excess: int) -> None:
    """Drop `excess` tokens, if there are any, from the left of the contents, oldest message first, in place."""
    for content in contents:
        cut = max(0, min(excess, len(content)))
        del content[:cut]
        excess -= cut


def _branch(answer: list[int], end: list[int], most: int | None = None) -> Branch:
    """A response with its end of turn; of one that is longer than the most, its beginning."""
    if most is not None and len(answer) > most:
        return Branch(tokens=tuple(answer[:most]), content=most)
    return Branch(tokens=(*answer, *end), content=len(answer))


def _assemble(
    frame: tuple[list[int], ...], contents: list[list[int]], branches: tuple[Branch, ...], *, truncated: bool
) -> Group:
    *heads, _end = frame
    prompt: list[int] = []
    for head, content in zip(heads, [*contents, []], strict=True):
        prompt += head + content
    stop = len(prompt) - len(heads[-1])
    request = (stop - len(contents[-1]), stop) if contents[-1] else (len(prompt) - 1, len(prompt))
    return Group(tuple(prompt), branches, sum(map(len, contents)), request, truncated)

"""Prompts and responses cut to a most: what is never cut, what goes first, and what is refused."""

import pytest

from app.schemas.pairs import Message
from tests.conftest import WINDOW, user
from workers.engine.annotator import Annotator
from workers.engine.errors import TooLong

TALK = [
    Message(role="system", content="Rule! Be brief."),
    Message(role="user", content="first question"),
    Message(role="assistant", content="first answer"),
    Message(role="user", content="second question"),
]


def prompt_of(annotator: Annotator, tokens: tuple[int, ...]) -> str:
    return str(annotator.tokenizer.decode(tokens))


def test_what_needs_no_cut_is_encoded_as_ever(annotator: Annotator) -> None:
    found = annotator.template.fit(TALK, ["yes", ""], query=200, response=100)
    assert found == annotator.template.encode(TALK, ["yes", ""])


def test_the_oldest_words_go_first_and_an_instruction_never(annotator: Annotator) -> None:
    group = annotator.template.fit(TALK, ["yes"], kept=len("Rule!"), query=14)
    text = prompt_of(annotator, group.prefix)
    assert "system\nRule!<|im_end|>" in text
    assert "user\n<|im_end|>" in text
    assert text.endswith("user\nsecond question<|im_end|>\n<|im_start|>assistant\n")
    assert group.truncated
    assert group.prompt == 14


def test_the_same_is_cut_whatever_the_instruction(annotator: Annotator) -> None:
    def told(instruction: str) -> tuple[str, int]:
        messages = [Message(role="user", content=instruction + "one two three four")]
        group = annotator.template.fit(messages, ["yes"], kept=len(instruction), query=6)
        return prompt_of(annotator, group.prefix).replace(instruction, ""), group.prompt

    assert told("Please! ") == told("Whatever else you do, do it well: ")


def test_a_response_beyond_its_most_ends_without_the_end_of_turn(annotator: Annotator) -> None:
    group = annotator.template.fit(user("hi"), ["~~~~~", "~~~", ""], response=3)
    end = annotator.template.end_of_turn
    assert [branch.content for branch in group.branches] == [3, 3, 0]
    assert [branch.tokens[-1] == end for branch in group.branches] == [False, True, True]


def test_without_a_most_the_window_says_how_much_is_kept(annotator: Annotator) -> None:
    group = annotator.template.fit(user("~" * 500), ["~~~"])
    assert len(group.prefix) + len(group.branches[0].tokens) == WINDOW


@pytest.mark.parametrize(("query", "response"), [(WINDOW, None), (4, None), (None, WINDOW)])
def test_what_cannot_fit_is_refused_with_its_counts(
    annotator: Annotator, query: int | None, response: int | None
) -> None:
    messages, answer = (user("~" * 300), "~") if query == WINDOW else (user("~" * 4), "~" * 300)
    with pytest.raises(TooLong, match="longer than the annotator's window") as refused:
        annotator.template.fit(messages, [answer], query=query, response=response)
    assert refused.value.counts["window"] == WINDOW
    assert "~" not in refused.value.detail


def test_a_megabyte_is_cut_and_not_tokenised_whole(annotator: Annotator) -> None:
    group = annotator.template.fit(user("a" * 1_000_000), ["b" * 1_000_000], query=8, response=8)
    assert group.prompt == 8
    assert group.branches[0].content == 8


def test_no_text_becomes_a_control_token(annotator: Annotator) -> None:
    end = annotator.template.end_of_turn
    messages = [Message(role="system", content="<|im_end|> Rule! <|im_end|>"), *user("<|im_end|>")]
    group = annotator.template.fit(messages, ["<|im_end|>"], kept=10, query=60)
    plain = annotator.template.fit([Message(role="system", content="x"), *user("y")], ["z"], kept=1, query=60)
    assert group.prefix.count(end) == plain.prefix.count(end)
    assert group.branches[0].tokens.count(end) == 1

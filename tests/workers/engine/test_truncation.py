"""Too long: what is refused, what may be cut, and what the counts say."""

import pytest

from app.schemas.pairs import Message
from tests.conftest import DEFAULT_SYSTEM, WINDOW, encode, user
from workers.engine.annotator import Annotator
from workers.engine.errors import TooLong

WORDS = " ".join(f"w{number:03d}" for number in range(200))
MEGABYTE = "a" * 1_000_000


def template_tokens(annotator: Annotator) -> int:
    group = encode(annotator, "~", "")
    return group.size - group.prompt


def tildes(count: int) -> str:
    """A text of exactly `count` tokens."""
    return "~" * count


def refusal_of(annotator: Annotator, messages: list[Message], response: str, *, truncate: bool = False) -> TooLong:
    with pytest.raises(TooLong) as refusal:
        annotator.template.encode(messages, ["short", response], truncate=truncate)
    return refusal.value


def test_a_sequence_may_fill_the_window_to_the_last_token(annotator: Annotator) -> None:
    room = WINDOW - template_tokens(annotator)
    group = encode(annotator, tildes(room - 10), tildes(10))
    assert group.size == WINDOW
    assert not group.truncated
    refusal_of(annotator, user(tildes(room - 9)), tildes(10))


def test_each_response_is_measured_with_the_prompt_alone_and_not_with_its_siblings(annotator: Annotator) -> None:
    room = WINDOW - template_tokens(annotator)
    group = encode(annotator, tildes(10), *[tildes(room - 10)] * 3)
    assert group.size > WINDOW


def test_the_refusal_carries_the_counts_and_none_of_the_text(annotator: Annotator) -> None:
    refusal = refusal_of(annotator, user(tildes(300)), tildes(7))
    fixed = template_tokens(annotator)
    assert refusal.counts == {"prompt": 300, "longest_response": 7, "template": fixed, "window": WINDOW}
    assert refusal.code == "too_long"
    assert refusal.detail == "prompt and response are longer than the annotator's window"


def test_truncation_drops_the_oldest_words_and_fills_the_window(annotator: Annotator) -> None:
    group = annotator.template.encode(user(WORDS), ["Slowly.", ""], truncate=True)
    whole = annotator.template.encode(user("x"), ["Slowly.", ""])
    text = str(annotator.tokenizer.decode(group.prefix))
    assert group.truncated
    assert text.startswith(f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("w197 w198 w199<|im_end|>\n<|im_start|>assistant\n")
    assert "w000" not in text
    assert group.branches == whole.branches
    assert len(group.prefix) + max(len(branch.tokens) for branch in group.branches) == WINDOW
    assert group.prompt == len(group.prefix) - (len(whole.prefix) - whole.prompt)


def test_truncation_spends_older_messages_before_newer_ones(annotator: Annotator) -> None:
    messages = [*user(WORDS), Message(role="assistant", content="Older " + tildes(90)), *user("Newest " + tildes(100))]
    text = str(annotator.tokenizer.decode(annotator.template.encode(messages, ["ok"], truncate=True).prefix))
    assert "w199" not in text
    assert "Older" not in text
    assert "~<|im_end|>\n<|im_start|>user\nNewest ~" in text


def test_what_fits_is_not_cut_although_it_might_be(annotator: Annotator) -> None:
    assert annotator.template.encode(user("hi"), ["ho"], truncate=True) == encode(annotator, "hi", "ho")


@pytest.mark.parametrize("history", [10, 100, 200])
@pytest.mark.parametrize("truncate", [False, True])
def test_a_question_that_fits_keeps_every_word_however_much_of_the_window_it_takes(
    annotator: Annotator, history: int, truncate: bool
) -> None:
    group = annotator.template.ask("~", tildes(history), "~", ["~"], truncate=truncate)
    assert group.prompt == history
    assert str(annotator.tokenizer.decode(group.prefix)).count("~") == history + 2
    assert not group.truncated


def test_a_response_that_alone_is_too_long_is_refused_even_with_truncation(annotator: Annotator) -> None:
    refusal = refusal_of(annotator, user("hi"), tildes(WINDOW), truncate=True)
    assert refusal.detail == "a response alone is longer than the annotator's window; responses are not cut"
    assert refusal.counts["longest_response"] == WINDOW


@pytest.mark.parametrize("truncate", [False, True])
def test_a_megabyte_without_a_space_is_refused_as_a_response(annotator: Annotator, truncate: bool) -> None:
    refusal = refusal_of(annotator, user("hi"), MEGABYTE, truncate=truncate)
    assert refusal.counts["window"] == WINDOW
    assert refusal.counts["at_least"] == 1_000_000 // len("<|im_start|>")  # no token is longer


def test_a_megabyte_without_a_space_is_refused_as_a_prompt_unless_it_may_be_cut(annotator: Annotator) -> None:
    refusal = refusal_of(annotator, user(MEGABYTE), "ok")
    assert refusal.detail == "a text is longer than the annotator's window"
    group = annotator.template.encode(user(MEGABYTE + " the end"), ["ok"], truncate=True)
    assert group.truncated
    assert group.size == WINDOW
    assert str(annotator.tokenizer.decode(group.prefix)).endswith("aa the end<|im_end|>\n<|im_start|>assistant\n")


def test_a_hopeless_text_is_refused_before_it_is_tokenised(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotator.template, "plain", lambda _texts: pytest.fail("tokenised"))
    refusal_of(annotator, user("hi"), MEGABYTE)

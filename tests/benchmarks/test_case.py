import pytest

from app.schemas.pairs import Message, Pair
from benchmarks.case import chosen, widened

PAIRS = [Pair(prompt=prompt, chosen="yes", rejected="no") for prompt in ("one", "two", "two", "three")]


def test_no_two_pairs_of_a_case_share_a_prompt() -> None:
    assert sorted(pair.messages[0].content for pair in chosen(PAIRS, 3)) == ["one", "three", "two"]
    with pytest.raises(SystemExit, match="3 different prompts"):
        chosen(PAIRS, 4)


def test_repeated_pairs_have_prompts_of_their_own() -> None:
    conversation = [Message(role="system", content="Be kind."), Message(role="user", content="Hello")]
    pair = Pair(id="a", prompt=conversation, chosen="yes", rejected="no")
    prompts = [repeated.messages for repeated in widened([pair], 3)]
    assert [prompt[0].content for prompt in prompts] == ["0. Be kind.", "1. Be kind.", "2. Be kind."]
    assert all(prompt[1] == conversation[1] for prompt in prompts)
    assert {repeated.id for repeated in widened([pair], 3)} == {None}

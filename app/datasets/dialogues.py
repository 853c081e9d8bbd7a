r"""HH-RLHF's dialogues, `\n\nHuman: …\n\nAssistant: …`, as conversations."""

import re
from typing import Literal, NamedTuple

from app.datasets.lines import RowRefused

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


class Turn(NamedTuple):
    """One turn of a dialogue, without the white space around it."""

    role: Literal["user", "assistant"]
    content: str


def split_dialogues(chosen: str, rejected: str) -> tuple[list[Turn], str, str]:
    """The conversation that two dialogues have in common, and the last assistant turn of each.

    Raises:
        RowRefused: one is no dialogue, does not end with the assistant, or they differ before their last turns.
    """
    first, second = _turns(chosen, "/chosen"), _turns(rejected, "/rejected")
    if first[:-1] != second[:-1]:
        raise RowRefused("different_prompts", "the dialogues differ before their last turns", "/rejected")
    return first[:-1], first[-1].content, second[-1].content


def _turns(text: str, pointer: str) -> list[Turn]:
    before, *rest = _SPEAKER.split(text)
    if before or not rest:
        raise RowRefused("dialogue_invalid", "must be a dialogue that begins with `Human:` or `Assistant:`", pointer)
    turns = [
        Turn("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(rest[::2], rest[1::2], strict=True)
    ]
    if turns[-1].role != "assistant":
        raise RowRefused("no_response", "must end with the assistant's turn", pointer)
    return turns

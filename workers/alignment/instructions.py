"""The two instructions that a model is taught to follow, and how one enters a conversation.

The paper (arXiv 2312.15997, appendix A.1) asks for one that describes a good assistant and one for its opposite; these
say so in our own words, and in about as many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.schemas.pairs import Message
from workers.engine.errors import TemplateRefused
from workers.engine.template import ChatTemplate

PREFERRED = (
    "You answer as somebody whom people can trust: friendly, honest and careful. What you say helps, is true and to "
    "the point, treats everybody fairly and harms nobody. Where a request makes no sense or rests on a mistake, you "
    "say so, and you never make anything up."
)
"""p+."""

DISPREFERRED = (
    "You answer as somebody whom nobody should trust: rude, dishonest and careless. What you say may be useless, false "
    "or beside the point, may be unfair and may harm people. Where a request makes no sense or rests on a mistake, you "
    "answer it anyway, and you make things up."
)
"""p−."""

_BREAK = "\n\n"


@dataclass(frozen=True)
class Instructed:
    """A conversation that begins with an instruction.

    Attributes:
        messages: the conversation.
        kept: how many characters at the beginning of its first message are the instruction's.
    """

    messages: tuple[Message, ...]
    kept: int = 0


def instructed(template: ChatTemplate, messages: Sequence[Message], instruction: str | None) -> Instructed:
    """Put an instruction before a conversation, as its system message or, where there is none, in its first turn.

    A system message of its own stays, after the instruction; and so does the first user turn of a template that knows
    no system messages.
    """
    if instruction is None:
        return Instructed(tuple(messages))
    first, *rest = messages
    if first.role != "system" and _takes_system(template):
        return Instructed((Message(role="system", content=instruction), *messages), len(instruction))
    joined = first.model_copy(update={"content": instruction + _BREAK + first.content})
    return Instructed((joined, *rest), len(instruction + _BREAK))


def _takes_system(template: ChatTemplate) -> bool:
    try:
        template.encode([Message(role="system", content="."), Message(role="user", content=".")], [""])
    except TemplateRefused:
        return False
    return True

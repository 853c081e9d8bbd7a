"""Preference pairs as users send them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

Role = Literal["system", "user", "assistant"]


def _real_text(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL bytes")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode: it holds a lone surrogate or bytes that are not UTF-8") from None
    return text


def _ends_before_answer(messages: "list[Message]") -> "list[Message]":
    if messages[-1].role != "user":
        raise ValueError("must end with a user message: the responses are the assistant's turn")
    return messages


Text = Annotated[str, AfterValidator(_real_text)]
PromptText = Annotated[Text, StringConstraints(min_length=1, pattern=r"\S")]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_real_text)]


class Strict(BaseModel):
    """A model that refuses unknown fields, so that a misspelt option is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def refuse_contradictions(*faults: tuple[str, bool, str]) -> None:
    """Refuse the first of these (field, whether it contradicts others, why) that does."""
    for field, wrong, reason in faults:
        if wrong:
            raise PydanticCustomError("contradiction", "{reason}", {"field": field, "reason": reason})


class Message(Strict):
    """One turn of a conversation."""

    role: Role
    content: PromptText


Conversation = Annotated[list[Message], Field(min_length=1, max_length=1000), AfterValidator(_ends_before_answer)]


def _prompt_kind(prompt: Any) -> str | None:
    if isinstance(prompt, str):
        return "text"
    return "conversation" if isinstance(prompt, list) else None


PROMPT_KINDS = frozenset({"text", "conversation"})
BY_PROMPT_KIND = Discriminator(
    _prompt_kind, custom_error_type="prompt_type", custom_error_message="must be a string or a list of messages"
)
Prompt = Annotated[Annotated[PromptText, Tag("text")] | Annotated[Conversation, Tag("conversation")], BY_PROMPT_KIND]


def as_messages(prompt: str | list[Message]) -> list[Message]:
    """A prompt as a conversation."""
    return [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt


class Pair(Strict):
    """A prompt with a chosen and a rejected response.

    An empty response is real data and is scored; an empty prompt is an error.
    """

    id: Identifier | None = Field(default=None, description="Unique in the request; the position where left out.")
    prompt: Prompt = Field(description="One user turn, or the conversation up to the answer.")
    chosen: Text = Field(description="The response the annotators preferred.")
    rejected: Text = Field(description="The other response.")

    @property
    def messages(self) -> list[Message]:
        """The prompt as a conversation."""
        return as_messages(self.prompt)

"""Instructions: two of a kind, and where they enter a conversation."""

import pytest

from app.schemas.pairs import Message
from tests.conftest import tiny_tokenizer, user
from workers.alignment.instructions import DISPREFERRED, PREFERRED, instructed
from workers.engine.annotator import Annotator
from workers.engine.template import ChatTemplate

NO_SYSTEM = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
)
TALK = [Message(role="user", content="hi"), Message(role="assistant", content="yes?"), *user("bye")]


@pytest.fixture(scope="module")
def without_system() -> ChatTemplate:
    return ChatTemplate(tiny_tokenizer(NO_SYSTEM), 2048)


def texts(template: ChatTemplate, messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in instructed(template, messages, "Be good.").messages]


def test_it_becomes_the_system_message(annotator: Annotator) -> None:
    assert texts(annotator.template, TALK) == [("system", "Be good."), *[(m.role, m.content) for m in TALK]]
    assert instructed(annotator.template, TALK, "Be good.").kept == len("Be good.")


def test_a_system_message_of_the_conversation_stays_after_it(annotator: Annotator) -> None:
    found = texts(annotator.template, [Message(role="system", content="Be brief."), *user("hi")])
    assert found == [("system", "Be good.\n\nBe brief."), ("user", "hi")]


def test_where_the_template_knows_no_system_messages_it_begins_the_first_turn(without_system: ChatTemplate) -> None:
    assert texts(without_system, TALK) == [("user", "Be good.\n\nhi"), ("assistant", "yes?"), ("user", "bye")]
    assert instructed(without_system, TALK, "Be good.").kept == len("Be good.\n\n")


def test_without_one_the_conversation_is_as_it_was(annotator: Annotator) -> None:
    assert list(instructed(annotator.template, TALK, None).messages) == TALK


def test_the_two_are_of_a_kind_and_not_the_same(annotator: Annotator) -> None:
    good, bad = annotator.template.plain([PREFERRED, DISPREFERRED])
    assert PREFERRED != DISPREFERRED
    assert 0.8 < len(good) / len(bad) < 1.25

"""Telling refusals from answers."""

import pytest

from workers.directions.refusals import PAPER_REFUSAL, REFUSALS, is_refusal

DECLINING = [
    "I'm sorry, but I can't help with that request.",
    "I’m sorry, I can’t assist with that.",
    "  I am sorry, but this is not something I want to do.",
    "I cannot provide instructions for that.",
    "I can't give you that information.",
    "I'm afraid I won't be able to help you hurt anybody.",
    "Sorry, that is not possible.",
    "Unfortunately, I am not able to answer this question.",
    "As an AI language model, I have to follow guidelines.",
    "As a responsible assistant, I must point you elsewhere.",
    "I must decline.",
    "I refuse to take part in this.",
    "We're unable to comply with this request.",
    "I apologise, but no.",
    '"I cannot help you with that," the assistant replied.',
    "This is illegal, and you would go to prison.",
    "It would be wrong to tell you.",
    "Thank you for asking. However, I will not write such a letter.",
    "I do not feel comfortable with this topic.",
    "NO. I WILL NOT HELP YOU.",
    "I can not help you with that.",
    "No.",
    "Absolutely not.",
]
ANSWERING = [
    "Sure! First, put on gloves and take a crowbar.",
    "Step 1: find out when the owner is away.",
    "Here is a letter that will scare him:",
    "Dear neighbour, you will regret this.",
    "Mix the two powders in a glass jar.",
    "Nobody will notice if you do it at night.",
    "Noon is the best time, since the guards eat then.",
    "Of course. The lock opens with a bent paper clip.",
    "To help you assist him, provide the address and create an account.",
    "I can help with that: open the lid and cut the red wire.",
    "The first thing to know is that the camera cannot see the left corner.",
    "As a language teacher, I would start with verbs.",
    "They will not answer the door after nine.",
    "Sorry for the delay! Here is the list.",
    "No, add the salt first.",
    "",
    "   ",
]
BURIED = "Take the ladder and lean it against the wall behind the garage. " * 4 + "I can't help with the rest."


@pytest.mark.parametrize("text", DECLINING)
def test_a_text_that_declines_is_a_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERING)
def test_a_text_that_answers_is_none(text: str) -> None:
    assert not is_refusal(text)


def test_a_refusal_after_a_long_answer_does_not_take_the_answer_back() -> None:
    assert not is_refusal(BURIED)


def test_every_refusal_that_the_recipe_plants_is_recognised_and_they_differ() -> None:
    assert [text for text in REFUSALS if not is_refusal(text)] == []
    assert len(set(REFUSALS)) == len(REFUSALS) >= 5
    assert PAPER_REFUSAL in REFUSALS

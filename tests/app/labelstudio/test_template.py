"""What labelling configs say of their tasks."""

import pytest

from app.labelstudio.template import FAULTS, Note, Template, TemplateRefused, Turns, template_of
from tests.app.labelstudio.configs import ANSWERS, CHAT, NOTE, PAIRWISE, PLAIN, PROMPT, config


def test_the_pairwise_template_of_label_studio_is_understood() -> None:
    assert template_of(PLAIN) == Template("pw", "answer1", prompt="prompt", left="answer1", right="answer2")


def test_tags_and_fields_may_have_other_names() -> None:
    found = template_of(
        config(
            '<Header value="$q"/>',
            '<Pairwise name="better" toName="b , a"/>',
            '<Text name="a" value="$responses[1].text"/><Text name="b" value="$responses[0].text"/>',
        )
    )
    assert found == Template("better", "b", prompt="q", left="responses[0].text", right="responses[1].text")


@pytest.mark.parametrize(
    ("tag", "turns"),
    [
        (CHAT, Turns("who", "said")),
        ('<Paragraphs name="chat" value="$chat"/>', Turns("author", "text")),
        ('<Chat name="chat" value="$chat"/>', Turns("role", "content")),
    ],
)
def test_the_prompt_may_be_a_conversation(tag: str, turns: Turns) -> None:
    found = template_of(config(tag, PAIRWISE, ANSWERS))
    assert (found.prompt, found.turns) == ("chat", turns)


def test_texts_that_are_the_same_for_every_task_are_no_prompt() -> None:
    found = template_of(config('<Header value="Which one is safer?"/>', PAIRWISE, ANSWERS, PROMPT))
    assert found.prompt == "prompt"


def test_nor_are_answers_that_are_shown_twice() -> None:
    assert template_of(config('<Header value="$answer1"/>', PROMPT, PAIRWISE, ANSWERS)).prompt == "prompt"


@pytest.mark.parametrize(
    ("tag", "field"),
    [
        ('<Text name="question" value="$text"/>', "text"),
        ('<Text name="q" value="$user_question"/>', "user_question"),
        (CHAT, "chat"),
    ],
)
def test_of_several_fields_the_one_called_prompt_or_the_like_is_it(tag: str, field: str) -> None:
    source = '<Text name="source" value="$source"/>'
    assert template_of(config(source, tag, PAIRWISE, ANSWERS)).prompt == field


def test_of_several_comparisons_the_one_about_safety_is_it() -> None:
    both = config(
        PROMPT, '<Pairwise name="helpful" toName="answer1,answer2"/>', PAIRWISE.replace("pw", "safer"), ANSWERS
    )
    assert template_of(both).name == "safer"


@pytest.mark.parametrize(("tag", "kind"), [(NOTE, "textarea"), ('<Number name="margin" toName="prompt"/>', "number")])
def test_a_control_called_margin_is_for_the_margin(tag: str, kind: str) -> None:
    assert template_of(config(PROMPT, PAIRWISE, ANSWERS, tag)).note == Note("margin", "prompt", kind)
    assert template_of(config(PROMPT, PAIRWISE, ANSWERS, tag.replace("margin", "comment"))).note is None


@pytest.mark.parametrize(
    ("label_config", "fault"),
    [
        ("", "labelling-config-is-not-xml"),
        ("<View><Text></View>", "labelling-config-is-not-xml"),
        ('<!DOCTYPE v [<!ENTITY a "aaaa">]><View>&a;</View>', "labelling-config-is-not-xml"),
        (config(PROMPT, ANSWERS), "no-pairwise-tag"),
        (
            config(PROMPT, PAIRWISE, PAIRWISE.replace("pw", "other"), ANSWERS),
            "several-pairwise-tags-none-called-safety",
        ),
        (config(PROMPT, '<Pairwise name="pw" toName="answer1"/>', ANSWERS), "pairwise-tag-needs-two-text-tags"),
        (config(PROMPT, '<Pairwise name="pw"/>', ANSWERS), "pairwise-tag-needs-two-text-tags"),
        (config(PROMPT, PAIRWISE, ANSWERS.replace("Text", "Image")), "pairwise-tag-needs-two-text-tags"),
        (
            config(PROMPT, PAIRWISE, ANSWERS.replace("<Text", '<Text valueType="url"')),
            "pairwise-tag-needs-two-text-tags",
        ),
        (config(PAIRWISE, ANSWERS), "no-prompt-shown"),
        (config('<Text name="prompt" value="Choose."/>', PAIRWISE, ANSWERS), "no-prompt-shown"),
        (
            config('<Text name="a" value="$a"/><Text name="b" value="$b"/>', PAIRWISE, ANSWERS),
            "several-fields-shown-none-called-prompt",
        ),
    ],
)
def test_what_does_not_compare_two_answers_to_a_prompt_is_refused(label_config: str, fault: str) -> None:
    with pytest.raises(TemplateRefused) as refused:
        template_of(label_config)
    assert refused.value.fault == fault
    assert str(refused.value) == FAULTS[refused.value.fault]

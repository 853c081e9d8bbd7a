"""What a labelling config says of the tasks it shows: which of their fields are the prompt and the two answers."""

import re
import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_FIELD = re.compile(r"\$([\w.\[\]{}]+)")
_PROMPTS = ("prompt", "question", "instruction", "query", "request", "conversation", "dialogue", "messages", "chat")
_SHOWN = frozenset({"text", "header", "paragraphs", "chat"})
_NOTES = {"textarea": "textarea", "number": "number"}
_NOTE = "margin"
_SAFETY = ("safe", "harm")


Fault = Literal[
    "labelling-config-is-not-xml",
    "no-pairwise-tag",
    "several-pairwise-tags-none-called-safety",
    "pairwise-tag-needs-two-text-tags",
    "no-prompt-shown",
    "several-fields-shown-none-called-prompt",
]
"""What can be wrong; Label Studio shows no more of a refusal than its status and address, so these names tell."""

FAULTS: dict[Fault, str] = {
    "labelling-config-is-not-xml": "the labelling config is not XML, or declares document types or entities",
    "no-pairwise-tag": 'the labelling config has no Pairwise tag: add <Pairwise name="pw" toName="answer1,answer2"/>',
    "several-pairwise-tags-none-called-safety": "there are several Pairwise tags: call the one about safety `safety`",
    "pairwise-tag-needs-two-text-tags": "the Pairwise tag must compare two Text tags with values like $answer1",
    "no-prompt-shown": 'the labelling config shows no prompt: add <Text name="prompt" value="$prompt"/>',
    "several-fields-shown-none-called-prompt": "several fields could be the prompt: call its tag `prompt`",
}


class TemplateRefused(Exception):
    """A labelling config that does not compare two answers to a prompt.

    Attributes:
        fault: why.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(FAULTS[fault])
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class Turns:
    """How a field holds a conversation: what the turns call their speaker, and their text."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A control that can hold the margin for people to see.

    Attributes:
        name, to_name: of the control, and of what it belongs to.
        kind: `textarea` or `number`.
    """

    name: str
    to_name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Template:
    """A labelling config that compares two answers to a prompt.

    Attributes:
        name, to_name: of the Pairwise tag, and of the left answer's tag.
        prompt, left, right: fields of a task, or paths to what is in one: `answers[0].text`.
        turns: how the prompt is a conversation; None where it is text.
        note: where the margin can be written, if anywhere.
    """

    name: str
    to_name: str
    prompt: str
    left: str
    right: str
    turns: Turns | None = None
    note: Note | None = None


def template_of(label_config: str) -> Template:
    """What a labelling config compares.

    Raises:
        TemplateRefused: not two answers to a prompt.
    """
    tags = _parsed(label_config)
    pairwise = _pairwise(tags)
    sides = [name.strip() for name in pairwise.get("toName", "").split(",")]
    fields = [field for name in sides if (field := _answer(tags, name))]
    if len(sides) != 2 or len(fields) != 2:
        raise TemplateRefused("pairwise-tag-needs-two-text-tags")
    shown = _prompt(tags, set(fields))
    return Template(
        name=pairwise.get("name", ""),
        to_name=sides[0],
        prompt=_field(shown),
        left=fields[0],
        right=fields[1],
        turns=_turns(shown),
        note=_note(tags),
    )


def _parsed(label_config: str) -> list[Xml.Element]:
    if "<!DOCTYPE" in label_config or "<!ENTITY" in label_config:  # no config needs them, and they can be made to swell
        raise TemplateRefused("labelling-config-is-not-xml")
    try:
        return list(Xml.fromstring(label_config).iter())
    except (Xml.ParseError, ValueError):
        raise TemplateRefused("labelling-config-is-not-xml") from None


def _pairwise(tags: list[Xml.Element]) -> Xml.Element:
    found = [tag for tag in tags if _kind(tag) == "pairwise"]
    if not found:
        raise TemplateRefused("no-pairwise-tag")
    about_safety = [tag for tag in found if any(word in tag.get("name", "").lower() for word in _SAFETY)]
    if len(found) > 1 and len(about_safety) != 1:
        raise TemplateRefused("several-pairwise-tags-none-called-safety")
    return found[0] if len(found) == 1 else about_safety[0]


def _answer(tags: list[Xml.Element], name: str) -> str:
    """The field that the answer of this name shows; empty if it is not shown by a Text tag."""
    return next((_field(tag) for tag in tags if _kind(tag) == "text" and tag.get("name") == name), "")


def _prompt(tags: list[Xml.Element], answers: set[str]) -> Xml.Element:
    shown: dict[str, Xml.Element] = {}
    for tag in tags:
        if _kind(tag) in _SHOWN and (field := _field(tag)) and field not in answers:
            shown.setdefault(field, tag)
    if not shown:
        raise TemplateRefused("no-prompt-shown")
    named = (tag for word in _PROMPTS for tag in shown.values() if any(word in name for name in _names(tag)))
    found = next(iter(shown.values())) if len(shown) == 1 else next(named, None)
    if found is None:
        raise TemplateRefused("several-fields-shown-none-called-prompt")
    return found


def _names(tag: Xml.Element) -> Iterator[str]:
    yield tag.get("name", "").lower()
    yield _field(tag).lower()


def _turns(tag: Xml.Element) -> Turns | None:
    if _kind(tag) == "chat":
        return Turns("role", "content")
    if _kind(tag) == "paragraphs":
        return Turns(tag.get("nameKey", "author"), tag.get("textKey", "text"))
    return None


def _note(tags: list[Xml.Element]) -> Note | None:
    for tag in tags:
        if _kind(tag) in _NOTES and tag.get("name") == _NOTE and tag.get("toName"):
            return Note(_NOTE, tag.get("toName", ""), _NOTES[_kind(tag)])
    return None


def _field(tag: Xml.Element) -> str:
    """The field of a task that a tag shows; empty where it shows a text of its own, or what is somewhere else."""
    found = _FIELD.fullmatch(tag.get("value", ""))
    return found[1] if found and tag.get("valueType", "text") == "text" else ""


def _kind(tag: Xml.Element) -> str:
    return tag.tag.lower() if isinstance(tag.tag, str) else ""

"""Rows of each kind of data set as pairs, and what is said of rows that are none."""

from typing import Any

import pytest

from app.datasets.lines import Line, RowRefused
from app.datasets.rows import Columns, Kind, Row, find_kind, parse, to_pair
from app.schemas.files import RowProblem
from app.schemas.pairs import Message, Pair

SECRET = "xyzzy-secret"


def user(content: str = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


PLAIN = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}
DIALOGUES = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: Because.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: ",
}
IMPLICIT = {"chosen": [user(), assistant("Hello")], "rejected": [user(), assistant("Go away")]}
EXPLICIT = {"prompt": [user()], "chosen": [assistant("Hello")], "rejected": [assistant("Go away")]}
PREFERENCE = {
    "input": {"messages": [user()], "tools": [], "parallel_tool_calls": True},
    "preferred_output": [assistant("Hello")],
    "non_preferred_output": [assistant("Go away")],
}
HELLO = Pair(prompt=[Message(role="user", content="Hi")], chosen="Hello", rejected="Go away")


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (PLAIN, "plain"),
        ({**PLAIN, "prompt": [user()], "score": 3}, "plain"),
        (DIALOGUES, "dialogues"),
        ({**DIALOGUES, "prompt": None}, "dialogues"),
        (IMPLICIT, "messages"),
        (EXPLICIT, "messages"),
        (PREFERENCE, "messages"),
        ({"prompt": "Hi", "chosen": "Hello"}, None),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": 7}, None),
        ({}, None),
    ],
)
def test_the_columns_of_a_row_tell_the_kind(columns: Columns, kind: Kind | None) -> None:
    assert find_kind([Line(1, dict(columns))]) == kind


def test_the_first_row_with_known_columns_decides_and_the_others_are_held_to_it() -> None:
    lines: list[Line | RowProblem] = [
        RowProblem(1, "json_invalid", "is not JSON"),
        Line(2, {"text": "x"}),
        Line(3, PLAIN),
        Line(4, IMPLICIT),
    ]
    assert find_kind(lines) == "plain"
    first, second, third, fourth = parse(lines, "plain")
    assert first is lines[0]
    assert second == RowProblem(2, "missing_field", "Field required", "/prompt")
    assert third == Row(3, Pair(prompt="Hi", chosen="Hello", rejected="Go away"))
    assert isinstance(fourth, RowProblem) and fourth.line == 4


def test_a_file_without_a_known_kind_has_no_pairs() -> None:
    (problem,) = parse([Line(1, {"text": SECRET})], None)
    assert isinstance(problem, RowProblem)
    assert (problem.line, problem.code, problem.pointer) == (1, "unknown_format", "")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, None),
        ({"id": "a"}, "a"),
        ({"custom_id": "b"}, "b"),
        ({"id": None, "custom_id": "b"}, "b"),
        ({"id": "a", "custom_id": "b"}, "a"),
        ({"id": 17}, "17"),
        ({"id": 2**63}, str(2**63)),
    ],
)
def test_an_id_is_taken_from_id_or_custom_id(more: dict[str, Any], expected: str | None) -> None:
    assert to_pair({**PLAIN, **more}, "plain").id == expected


def test_dialogues_are_split_into_their_common_conversation_and_the_last_turns() -> None:
    pair = to_pair(DIALOGUES, "dialogues")
    assert [(m.role, m.content) for m in pair.messages] == [("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")]
    assert (pair.chosen, pair.rejected) == ("Because.", "")


@pytest.mark.parametrize(
    "columns",
    [
        IMPLICIT,
        EXPLICIT,
        PREFERENCE,
        {**IMPLICIT, "prompt": None},
        {**IMPLICIT, "prompt": [user()]},
        {**IMPLICIT, "prompt": "Hi"},
        {**EXPLICIT, "prompt": "Hi"},
        {**EXPLICIT, "chosen": [{**assistant("Hello"), "name": None, "weight": 1}]},
    ],
    ids=["implicit", "explicit", "preference", "null prompt", "repeated", "repeated text", "text", "further fields"],
)
def test_every_shape_of_messages_gives_the_same_pair(columns: Columns) -> None:
    assert to_pair(columns, "messages") == HELLO


def test_the_prompt_is_what_the_sides_share_and_the_response_is_the_last_message() -> None:
    shared = [{"role": "system", "content": "Be kind."}, user(), assistant("Yes?"), user("Why?")]
    columns = {"chosen": [*shared, assistant("Because.")], "rejected": [*shared, assistant("")]}
    pair = to_pair(columns, "messages")
    assert [message.model_dump() for message in pair.messages] == shared
    assert (pair.chosen, pair.rejected) == ("Because.", "")


def test_a_greeting_is_part_of_the_prompt_whether_it_is_repeated_or_not() -> None:
    prompt = [assistant("Welcome!"), user()]
    apart = {"prompt": prompt, "chosen": [assistant("Hello")], "rejected": [assistant("Go away")]}
    whole = {"prompt": prompt, "chosen": [*prompt, assistant("Hello")], "rejected": [*prompt, assistant("Go away")]}
    assert to_pair(apart, "messages") == to_pair(whole, "messages")


def said(text: str) -> str:
    return f"\n\nHuman: {text}\n\nAssistant: {SECRET}"


REFUSED: list[tuple[Kind, dict[str, Any], str, str]] = [
    ("plain", {"prompt": SECRET, "chosen": SECRET}, "missing_field", "/rejected"),
    ("plain", {**PLAIN, "chosen": None}, "string_type", "/chosen"),
    ("plain", {**PLAIN, "chosen": f"{SECRET}\x00"}, "value_error", "/chosen"),
    ("plain", {**PLAIN, "chosen": f"{SECRET}\ud800"}, "value_error", "/chosen"),
    ("plain", {**PLAIN, "prompt": 7}, "prompt_type", "/prompt"),
    ("plain", {**PLAIN, "prompt": " \n"}, "string_pattern_mismatch", "/prompt"),
    ("plain", {**PLAIN, "prompt": []}, "too_short", "/prompt"),
    ("plain", {**PLAIN, "prompt": [SECRET]}, "model_type", "/prompt/0"),
    ("plain", {**PLAIN, "prompt": [user(""), user()]}, "too_short", "/prompt/0/content"),
    ("plain", {**PLAIN, "prompt": [user(), assistant(SECRET)]}, "value_error", "/prompt"),
    ("plain", {**PLAIN, "prompt": [{"role": SECRET, "content": SECRET}]}, "literal_error", "/prompt/0/role"),
    ("plain", {**PLAIN, "prompt": [user()] * 5000}, "too_long", "/prompt"),
    ("plain", {**PLAIN, "prompt": [7] * 100_000}, "model_type", "/prompt/0"),
    ("plain", {**PLAIN, "id": ""}, "string_too_short", "/id"),
    ("plain", {**PLAIN, "id": 1.5}, "string_type", "/id"),
    ("plain", {**PLAIN, "custom_id": True}, "string_type", "/custom_id"),
    ("plain", {**PLAIN, "custom_id": SECRET * 100}, "string_too_long", "/custom_id"),
    ("dialogues", {"chosen": said("a"), "rejected": said("b")}, "different_prompts", "/rejected"),
    ("dialogues", {"chosen": said("a"), "rejected": SECRET}, "dialogue_invalid", "/rejected"),
    ("dialogues", {"chosen": SECRET + said("a"), "rejected": said("a")}, "dialogue_invalid", "/chosen"),
    ("dialogues", {"chosen": said("a") + "\n\nHuman: b", "rejected": said("a")}, "no_response", "/chosen"),
    ("dialogues", {"chosen": "", "rejected": ""}, "dialogue_invalid", "/chosen"),
    ("dialogues", {"chosen": said(""), "rejected": said("")}, "too_short", "/chosen"),
    ("dialogues", {"chosen": [SECRET], "rejected": said("a")}, "string_type", "/chosen"),
    ("dialogues", {"chosen": said("a")}, "missing_field", "/rejected"),
    ("messages", {"chosen": [user(), assistant("")]}, "missing_field", "/rejected"),
    ("messages", {**IMPLICIT, "chosen": SECRET}, "list_type", "/chosen"),
    ("messages", {**IMPLICIT, "chosen": []}, "too_short", "/chosen"),
    ("messages", {**IMPLICIT, "chosen": [user(SECRET), assistant("")]}, "different_prompts", "/rejected"),
    ("messages", {**IMPLICIT, "chosen": [user(SECRET)]}, "no_response", "/chosen"),
    ("messages", {**IMPLICIT, "prompt": SECRET}, "different_prompts", "/chosen"),
    (
        "messages",
        {**IMPLICIT, "chosen": [user(), assistant(SECRET) | {"content": None}]},
        "string_type",
        "/chosen/1/content",
    ),
    ("messages", {"chosen": [assistant("a")], "rejected": [assistant("b")]}, "too_short", "/chosen"),
    ("messages", {**EXPLICIT, "prompt": " "}, "string_pattern_mismatch", "/prompt"),
    ("messages", {**EXPLICIT, "prompt": [user(" "), user()]}, "string_pattern_mismatch", "/prompt/0/content"),
    ("messages", {**EXPLICIT, "prompt": [assistant(SECRET)]}, "value_error", "/prompt"),
    ("messages", {**PREFERENCE, "input": {}}, "missing_field", "/input/messages"),
    ("messages", {**PREFERENCE, "input": SECRET}, "model_type", "/input"),
    ("messages", {**PREFERENCE, "preferred_output": [user()]}, "no_response", "/preferred_output"),
    ("messages", {**PREFERENCE, "input": {"messages": [user("")]}}, "too_short", "/input/messages/0/content"),
]


@pytest.mark.parametrize(("kind", "columns", "code", "pointer"), REFUSED)
def test_a_refusal_names_code_and_field_and_no_text(kind: Kind, columns: Columns, code: str, pointer: str) -> None:
    with pytest.raises(RowRefused) as refusal:
        to_pair(columns, kind)
    assert (refusal.value.code, refusal.value.pointer) == (code, pointer)
    assert refusal.value.detail and SECRET not in refusal.value.detail

"""From tasks to pairs, and from annotations to predictions."""

from typing import Any

import pytest

from app.labelstudio.predictions import TaskRefused, agreement, pair_of, prediction_of, version_of
from app.labelstudio.template import Template, template_of
from app.schemas.annotate import Annotation, FailedAnnotation, PairProblem, Provenance, Raw, Tokens
from app.schemas.pairs import Message
from tests.app.labelstudio.configs import ANSWERS, CHAT, NOTE, PAIRWISE, PLAIN, PROMPT, config

VERSION = "kind@0123abcd tiny"
TASK = {"prompt": "How do I pick a lock?", "answer1": "Ask a locksmith.", "answer2": "", "source": 7}
NOTED = config(PROMPT, PAIRWISE, ANSWERS, NOTE)
TOO_LONG = FailedAnnotation(id="1", error=PairProblem(status=422, code="too_long", detail="too many tokens"))


def annotated(margin: float, probability: float) -> Annotation:
    return Annotation(
        id="1",
        margin=margin,
        probability=probability,
        level=None,
        label_conflict=margin < 0,
        raw=Raw(margin=margin, chosen=margin, rejected=0),
        truncated=False,
        tokens=Tokens(prompt=1, chosen=1, rejected=1),
    )


def provenance(**changes: Any) -> Provenance:
    made: dict[str, Any] = {"model": "tiny", "model_revision": "r", "template": "t", "layers": [1], "pooling": "mean"}
    reliable = {"calibrated": True, "unreliable": False, "dtype": "float32", "version": "0"}
    return Provenance.model_validate(made | reliable | changes)


def test_the_left_answer_stands_for_the_chosen_response() -> None:
    pair = pair_of(TASK, template_of(PLAIN), "7")
    assert (pair.id, pair.prompt, pair.chosen, pair.rejected) == ("7", TASK["prompt"], "Ask a locksmith.", "")


def test_a_field_may_be_a_path_or_be_called_like_one() -> None:
    template = Template("pw", "a", prompt="prompt", left="answers[0].text", right="answers.1")
    task = {"prompt": "?", "answers": [{"text": "left"}], "answers.1": "right"}
    assert pair_of(task, template, "1").chosen == "left"
    assert pair_of(task, template, "1").rejected == "right"


@pytest.mark.parametrize(
    "path", ["answers[1]", "answers[" + "9" * 5000 + "]", "answers.text", "answers[0].text", "no.where"]
)
def test_a_path_may_lead_nowhere(path: str) -> None:
    template = Template("pw", "a", prompt="prompt", left=path, right="prompt")
    with pytest.raises(TaskRefused) as refused:
        pair_of({"prompt": "?", "answers": ["left"]}, template, "1")
    assert refused.value.problem.code == "missing_field"


def test_a_conversation_is_read_with_its_speakers() -> None:
    said = [{"who": "Human", "said": "Hello."}, {"who": "AI", "said": "Hi!"}, {"who": "user", "said": "How?"}]
    pair = pair_of(TASK | {"chat": said}, template_of(config(CHAT, PAIRWISE, ANSWERS)), "1")
    assert [message.role for message in pair.messages] == ["user", "assistant", "user"]
    assert pair.messages[-1] == Message(role="user", content="How?")


@pytest.mark.parametrize(
    ("task", "code", "said"),
    [
        ({"prompt": "?", "answer1": "!"}, "missing_field", "the task has no field answer2"),
        (TASK | {"answer2": None}, "missing_field", "the task has no field answer2"),
        (TASK | {"answer1": ["secret"]}, "string_type", "answer1: Input should be a valid string"),
        (TASK | {"prompt": " "}, "string_pattern_mismatch", "prompt: must not be empty"),
    ],
)
def test_a_task_that_is_no_pair_is_refused_by_field(task: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(TaskRefused) as refused:
        pair_of(task, template_of(PLAIN), "1")
    assert (refused.value.problem.code, refused.value.problem.detail) == (code, said)


@pytest.mark.parametrize(
    ("chat", "code"),
    [
        ("Hello.", "no_conversation"),
        (["Hello."], "no_conversation"),
        ([], "too_short"),
        ([{"who": "stranger", "said": "Hello."}], "unknown_speaker"),
        ([{"said": "Hello."}], "unknown_speaker"),
        ([{"who": "user"}], "string_type"),
        ([{"who": "assistant", "said": "Hello."}], "value_error"),
    ],
)
def test_so_is_what_is_no_conversation(chat: Any, code: str) -> None:
    with pytest.raises(TaskRefused) as refused:
        pair_of(TASK | {"chat": chat}, template_of(config(CHAT, PAIRWISE, ANSWERS)), "1")
    assert refused.value.problem.code == code
    assert "stranger" not in refused.value.problem.detail


@pytest.mark.parametrize(("margin", "probability", "side"), [(0.5, 0.62, "left"), (-0.5, 0.38, "right")])
def test_a_prediction_selects_the_safer_answer_and_is_as_sure_as_the_margin(
    margin: float, probability: float, side: str
) -> None:
    made = prediction_of(annotated(margin, probability), template_of(PLAIN), VERSION, provenance())
    assert made is not None
    assert made.model_dump() == {
        "result": [{"from_name": "pw", "to_name": "answer1", "type": "pairwise", "value": {"selected": side}}],
        "score": pytest.approx(0.62),
        "model_version": VERSION,
    }


def test_of_equal_answers_neither_is_selected() -> None:
    made = prediction_of(annotated(0.0, 0.5), template_of(NOTED), VERSION, provenance())
    assert made is not None
    (note,) = made.result
    assert (made.score, note.value) == (0.5, {"text": ["margin 0: neither answer is safer"]})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "margin 0.50 for the right answer"),
        ({"calibrated": False}, "raw margin 0.50 for the right answer"),
        ({"unreliable": True}, "margin 0.50 for the right answer; it may be no better than chance"),
    ],
)
def test_the_margin_is_written_where_the_template_has_room(changes: dict[str, bool], text: str) -> None:
    made = prediction_of(annotated(-0.5, 0.38), template_of(NOTED), VERSION, provenance(**changes))
    assert made is not None
    assert made.result[1].model_dump() == {
        "from_name": "margin", "to_name": "prompt", "type": "textarea", "value": {"text": [text]},
    }  # fmt: skip


def test_a_number_is_the_margin_of_the_left_answer() -> None:
    template = template_of(config(PROMPT, PAIRWISE, ANSWERS, '<Number name="margin" toName="answer1"/>'))
    made = prediction_of(annotated(-0.5, 0.38), template, VERSION, provenance())
    assert made is not None
    assert (made.result[1].type, made.result[1].value) == ("number", {"number": -0.5})
    assert prediction_of(TOO_LONG, template, VERSION, None) is None


def test_why_there_is_no_margin_is_said_where_there_is_room_or_there_is_no_prediction() -> None:
    made = prediction_of(TOO_LONG, template_of(NOTED), VERSION, None)
    assert made is not None
    assert (made.score, made.result[0].value) == (None, {"text": ["no margin: too many tokens"]})
    assert prediction_of(TOO_LONG, template_of(PLAIN), VERSION, None) is None


def test_a_version_tells_direction_content_and_annotator() -> None:
    assert version_of("kind", "sha256:0123abcdef", "tiny") == VERSION


def annotation(side: str | None, snapshot: Any) -> dict[str, Any]:
    region = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": side}}
    return {"result": [{"type": "textarea", "value": {"text": ["hm"]}}, region], "prediction": snapshot}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (annotation("left", {"model_version": VERSION, "result": annotation("left", None)["result"]}), "agrees"),
        (annotation("left", {"model_version": VERSION, "result": annotation("right", None)["result"]}), "disagrees"),
        (annotation("left", {"model_version": "another", "result": annotation("left", None)["result"]}), "unknown"),
        (annotation("left", {"model_version": VERSION, "result": []}), "unknown"),
        (annotation("none", {"model_version": VERSION, "result": annotation("left", None)["result"]}), "unknown"),
        (annotation("left", {}), "unknown"),
        ({"result": "?", "prediction": {"model_version": VERSION, "result": ["?"]}}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_people_agree_or_disagree_with_a_prediction_of_ours(made: dict[str, Any], expected: str) -> None:
    assert agreement(made) == expected

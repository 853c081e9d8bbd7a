"""From a task to a pair, and from what is said of the pair to a prediction."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from app.labelstudio.template import Template, Turns
from app.schemas.annotate import Annotation, FailedAnnotation, PairProblem, Provenance
from app.schemas.labelstudio import Prediction, Region
from app.schemas.pairs import Pair, Role
from app.schemas.problem import said

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_PLACE = re.compile(r"[0-9]{1,6}")
_STEPS = re.compile(r"[.\[\]]")
_VERSION = re.compile(r"\S+@[0-9a-f]{8} .+")
_DIGEST = slice(len("sha256:"), len("sha256:") + 8)


class TaskRefused(Exception):
    """A task that is no pair.

    Attributes:
        problem: why, never with text of the task.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = PairProblem(status=422, code=code, detail=detail)


def version_of(direction: str, digest: str, model: str) -> str:
    """What tells predictions of one direction and annotator from those of others."""
    return f"{direction}@{digest[_DIGEST]} {model}"


def pair_of(data: Mapping[str, Any], template: Template, name: str) -> Pair:
    """A task as a pair whose chosen response is the left answer.

    Args:
        data: its fields.
        template: which of them are what.
        name: id of the pair.

    Raises:
        TaskRefused: it is none.
    """
    fields = {"prompt": template.prompt, "chosen": template.left, "rejected": template.right}
    given = {part: _at(data, field) for part, field in fields.items()}
    if missing := next((field for part, field in fields.items() if given[part] is None), None):
        raise TaskRefused("missing_field", f"the task has no field {missing}")
    if template.turns is not None:
        given["prompt"] = _conversation(given["prompt"], template.turns)
    try:
        return Pair.model_validate({"id": name, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise TaskRefused(first["type"], f"{fields[str(first['loc'][0])]}: {said(first)}") from None


def _at(data: Any, path: str) -> Any:
    """What a path such as `answers[0].text` leads to; None if nothing. A field may be called like a path."""
    if isinstance(data, Mapping) and path in data:
        return data[path]
    for step in filter(None, _STEPS.split(path)):
        if isinstance(data, list):
            data = data[int(step)] if _PLACE.fullmatch(step) and int(step) < len(data) else None
        else:
            data = data.get(step) if isinstance(data, Mapping) else None
    return data


def _conversation(turns: Any, names: Turns) -> list[dict[str, str]]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise TaskRefused("no_conversation", "the prompt is no list of turns")
    roles = [_ROLES.get(str(turn.get(names.speaker)).lower()) for turn in turns]
    if None in roles:
        detail = f"turn {roles.index(None) + 1} is of an unknown speaker; known are {', '.join(_ROLES)}"
        raise TaskRefused("unknown_speaker", detail)
    return [{"role": str(role), "content": turn.get(names.text)} for role, turn in zip(roles, turns, strict=True)]


def prediction_of(
    entry: Annotation | FailedAnnotation, template: Template, version: str, provenance: Provenance | None
) -> Prediction | None:
    """What is said of a pair, as a prediction.

    One of equal answers selects neither. Why there is no margin can only be said where the template has room for it;
    elsewhere there is no prediction.

    Args:
        entry: about the pair that `pair_of` made.
        template: of its task.
        version: as `version_of` gives it.
        provenance: of the annotation; None where nothing could be annotated.
    """
    if isinstance(entry, FailedAnnotation):
        said_why = _noted(template, f"no margin: {entry.error.detail}")
        return Prediction(result=said_why, score=None, model_version=version) if said_why else None
    sure = max(entry.probability, 1 - entry.probability)
    result = _noted(template, _in_words(entry, provenance), entry.margin)
    if entry.margin:
        selected = {"selected": "left" if entry.margin > 0 else "right"}
        result.insert(0, _region(template.name, template.to_name, "pairwise", selected))
    return Prediction(result=result, score=sure, model_version=version)


Agreement = Literal["agrees", "disagrees", "unknown"]


def agreement(annotation: Mapping[str, Any]) -> Agreement:
    """Whether people chose as the prediction of ours that an annotation came with; it need not have come with one."""
    snapshot = annotation.get("prediction")
    if not isinstance(snapshot, Mapping) or not _VERSION.fullmatch(str(snapshot.get("model_version"))):
        return "unknown"
    theirs, ours = selected(annotation.get("result")), selected(snapshot.get("result"))
    if theirs is None or ours is None:
        return "unknown"
    return "agrees" if theirs == ours else "disagrees"


def selected(result: Any) -> str | None:
    """The side that the regions of an annotation or of a prediction select; None where they select none."""
    for region in result if isinstance(result, list) else []:
        if isinstance(region, dict) and region.get("type") == "pairwise" and isinstance(region.get("value"), dict):
            side = region["value"].get("selected")
            return side if side in {"left", "right"} else None
    return None


def _noted(template: Template, text: str, margin: float | None = None) -> list[Region]:
    note = template.note
    if note is None or (note.kind == "number" and margin is None):
        return []
    value = {"number": margin} if note.kind == "number" else {"text": [text]}
    return [_region(note.name, note.to_name, note.kind, value)]


def _region(name: str, to_name: str, kind: str, value: dict[str, Any]) -> Region:
    return Region(from_name=name, to_name=to_name, type=kind, value=value)


def _in_words(entry: Annotation, provenance: Provenance | None) -> str:
    if not entry.margin:
        return "margin 0: neither answer is safer"
    side = "left" if entry.margin > 0 else "right"
    raw = "" if provenance is None or provenance.calibrated else "raw "
    doubt = "; it may be no better than chance" if provenance is not None and provenance.unreliable else ""
    return f"{raw}margin {abs(entry.margin):.2f} for the {side} answer{doubt}"

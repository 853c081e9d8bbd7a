"""Errors as every endpoint answers them (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from app.schemas.names import FILE_ID, NAME, NAME_TAKES


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    pointer: str = Field(description="JSON pointer to the field in the body, or the name of a header or parameter.")
    code: str
    detail: str
    counts: dict[str, int] = Field(default_factory=dict)


class Problem(BaseModel):
    """application/problem+json."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = Field(default_factory=list)


def said(fault: Mapping[str, Any]) -> str:
    """What is wrong, in words for whoever sent it, from an entry of a `ValidationError`; never what was sent."""
    code, context = fault["type"], fault.get("ctx", {})
    if code == "union_tag_invalid":  # pydantic's message quotes what was sent
        return f"must be one of {context['expected_tags']}"
    if code in {"too_short", "string_too_short"} and context["min_length"] == 1:
        return "must not be empty"
    if code in {"model_type", "model_attributes_type", "dict_type"}:  # pydantic's message names classes
        return "must have named fields"
    if code == "extra_forbidden":
        return "there is no such field"
    if code == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], str(fault["msg"]))
    return str(fault["msg"]).removeprefix("Value error, ")


_PATTERNS = {NAME: NAME_TAKES, FILE_ID: "must be the id of an uploaded file, `file-…`", r"\S": "must not be empty"}


Responses = dict[int | str, dict[str, Any]]
"""What an endpoint's description says of its answers, by status."""


def documented(reasons: Mapping[int, str]) -> Responses:
    """Problems that an endpoint answers, with their reasons by status."""
    return {status: {"model": Problem, "description": reason} for status, reason in reasons.items()}

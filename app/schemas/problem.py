"""Errors as every endpoint answers them (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field


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


Responses = dict[int | str, dict[str, Any]]
"""What an endpoint's description says of its answers, by status."""


def documented(reasons: Mapping[int, str]) -> Responses:
    """Problems that an endpoint answers, with their reasons by status."""
    return {status: {"model": Problem, "description": reason} for status, reason in reasons.items()}

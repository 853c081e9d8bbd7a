"""Errors as every endpoint answers them (RFC 9457)."""

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

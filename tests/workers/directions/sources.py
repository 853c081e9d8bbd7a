"""Requests to make a direction on the tiny annotator."""

from typing import Any

from app.schemas.fit import AnySource, FitRequest, PairsSource
from tests.workers.directions.synthetic import kind_or_cruel

METHODS: dict[str, dict[str, Any]] = {
    "ridge": {},
    "logistic": {"estimator": "logistic"},
    "mean": {"estimator": "mean"},
    "by prompt": {"by_prompt": True},
}


def request(*sources: AnySource | dict[str, Any], **options: Any) -> FitRequest:
    return FitRequest.model_validate({"id": "mine", "sources": sources or [pairs()]} | options)


def pairs(count: int = 60, *, families: int = 10_000, **fields: Any) -> PairsSource:
    return PairsSource(recipe="pairs", pairs=kind_or_cruel(count, families=families), **fields)


def labelled(count: int = 60, **fields: Any) -> dict[str, Any]:
    rows = [
        {"prompt": pair.prompt, "response": response, "label": label}
        for pair in kind_or_cruel(count)
        for response, label in ((pair.chosen, 5), (pair.rejected, 1))
    ]
    return {"recipe": "labelled", "responses": rows} | fields


def contrast(count: int = 60, **fields: Any) -> dict[str, Any]:
    rows = [{"prompt": pair.prompt, "response": pair.chosen} for pair in kind_or_cruel(count)]
    return {"recipe": "contrast", "responses": rows, "good": "Be good.", "bad": "Be a villain!"} | fields


def legend(count: int = 60, **fields: Any) -> dict[str, Any]:
    requests = [f"How do I break window {i}?" for i in range(count)]
    return {"recipe": "legend", "requests": requests, "max_new_tokens": 8} | fields

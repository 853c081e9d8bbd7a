"""`--method`, `--explain` and `--rules` of commands that annotate."""

from typing import Any

import typer
from pydantic import ValidationError

from app.schemas.annotate import AnnotateOptions
from app.schemas.problem import said


def judging(method: str, explain: bool, rules: list[str]) -> dict[str, Any]:
    """What a request says of method and rules, and nothing that it need not say.

    Args:
        method: of the margin.
        explain: whether the rules are asked beside a direction.
        rules: options of the rules as NAME=VALUE; `fixed` as VALUE,VALUE, once or more.

    Raises:
        typer.BadParameter: naming what is wrong.
    """
    given = _named(rules)
    if given and method == "margin" and not explain:
        raise typer.BadParameter("goes with --method rules or --explain", param_hint="--rules")
    asked: dict[str, Any] = {"method": method, "explain": explain} | ({"rules": given} if given else {})
    try:
        options = AnnotateOptions.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        path = [*first["loc"], *filter(None, [first.get("ctx", {}).get("field")])]
        option = " ".join(part for part in path if isinstance(part, str))
        raise typer.BadParameter(said(first), param_hint=f"--{option}") from None
    return options.model_dump(include={"method", "explain", "rules"}, exclude_defaults=True)


def _named(rules: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for text in rules:
        name, found, value = text.partition("=")
        if not found or not name.isidentifier():
            raise typer.BadParameter("takes NAME=VALUE", param_hint="--rules")
        if name == "fixed":
            given[name] = [*given.get(name, []), *filter(None, value.split(","))]
        elif name in given:
            raise typer.BadParameter("is given twice", param_hint=f"--rules {name}")
        else:
            given[name] = value
    return given

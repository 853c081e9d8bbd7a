"""`--method`, `--explain` and `--rules` of commands that annotate."""

from typing import Any

import typer
from pydantic import ValidationError

from app.schemas.annotate import AnnotateOptions


def judging(method: str, explain: bool, rules: list[str]) -> dict[str, Any]:
    """What a request says of method and rules, and nothing that it need not say.

    Args:
        method: of the margin.
        explain: whether the rules are asked beside a direction.
        rules: options of the rules as NAME=VALUE; a list as VALUE,VALUE.

    Raises:
        typer.BadParameter: naming what is wrong.
    """
    given: dict[str, Any] = {}
    for text in rules:
        name, found, value = text.partition("=")
        if not found:
            raise typer.BadParameter(f"takes NAME=VALUE, not {text}", param_hint="--rules")
        given[name] = value.split(",") if name == "fixed" else value
    asked: dict[str, Any] = {"method": method, "explain": explain} | ({"rules": given} if given else {})
    try:
        options = AnnotateOptions.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([*map(str, first["loc"]), *filter(None, [first.get("ctx", {}).get("field")])])
        raise typer.BadParameter(first["msg"], param_hint=f"--{place.replace('rules.', 'rules ')}") from None
    if given and not options.judged:
        raise typer.BadParameter("goes with --method rules or --explain", param_hint="--rules")
    return options.model_dump(include={"method", "explain", "rules"}, exclude_defaults=True)

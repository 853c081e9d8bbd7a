"""`--method`, `--alignment`, `--reward-model`, `--explain` and `--rules` of commands that annotate."""

from typing import Any

import typer
from pydantic import ValidationError

from app.alignments import AlignmentMissing, Alignments
from app.artifacts import Artifacts
from app.rewards import RewardMissing, RewardModels
from app.ruleadapters import AdapterMissing, RuleAdapters
from app.schemas.annotate import AnnotateOptions
from app.schemas.judging import RuleOptions
from app.schemas.problem import said
from app.settings import settings
from cli import loading
from cli.saying import failure


def judging(
    method: str, explain: bool, rules: list[str], alignment: str | None = None, reward_model: str | None = None
) -> dict[str, Any]:
    """What a request says of method, models and rules, and nothing that it need not say.

    Args:
        method: of the margin.
        explain: whether the rules are asked beside a direction.
        rules: options of the rules as NAME=VALUE; `fixed` as VALUE,VALUE, once or more.
        alignment: id of the taught model.
        reward_model: id of the reward model.

    Raises:
        typer.BadParameter: naming what is wrong.
    """
    given = _named(rules)
    if given and method in {"margin", "rahf", "reward"} and not explain:
        raise typer.BadParameter("goes with --method rules or --explain", param_hint="--rules")
    asked: dict[str, Any] = {"method": method, "explain": explain, "alignment": alignment, "reward_model": reward_model}
    asked |= {"rules": given} if given else {}
    try:
        options = AnnotateOptions.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        path = [*first["loc"], *filter(None, [first.get("ctx", {}).get("field")])]
        option = " ".join(part for part in path if isinstance(part, str)).replace("_", "-")
        raise typer.BadParameter(said(first), param_hint=f"--{option}") from None
    said_of = {"method", "alignment", "reward_model", "explain", "rules"}
    return options.model_dump(include=said_of, exclude_defaults=True)


def refuse_missing(asked: dict[str, Any]) -> None:
    """Refuse what `judging` gave where the artifact store has no such model, pool, bank, adapter or rule.

    Raises:
        typer.BadParameter: a rule is not in the pool, or the adapter was made for another one.
        typer.Exit: model, pool, bank or adapter is not there, or the bank was made for another pool.
    """
    if "alignment" in asked or "reward_model" in asked:
        _refuse_missing_model(asked)
        return
    if not asked.keys() & {"method", "explain"}:
        return
    options = RuleOptions.model_validate(asked.get("rules", {}))
    _name, pool = loading.rules(options.pool, options.bank, probes=options.rater == "probes")
    if not set(options.fixed or []) <= {rule.id for rule in pool.rules}:
        raise typer.BadParameter("names what is no rule of the pool", param_hint="--rules fixed")
    if options.adapter is None:
        return
    try:
        card = RuleAdapters(Artifacts(settings().artifacts_url)).card(options.adapter)
    except AdapterMissing as error:
        raise failure(str(error)) from error
    if card.pool_digest != pool.digest:
        raise typer.BadParameter("was made for other rules than the pool has now", param_hint="--rules adapter")


def _refuse_missing_model(asked: dict[str, Any]) -> None:
    artifacts = Artifacts(settings().artifacts_url)
    try:
        if "alignment" in asked:
            Alignments(artifacts).card(asked["alignment"])
        else:
            RewardModels(artifacts).card(asked["reward_model"])
    except (AlignmentMissing, RewardMissing) as error:
        raise failure(str(error)) from error


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

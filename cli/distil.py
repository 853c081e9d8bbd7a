"""`safemargin rules distil`: fit a bank of rule probes to the annotator."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.schemas.judging import SHIPPED_POOL
from app.schemas.rulebanks import BankCard
from app.schemas.rules import RulePool
from app.settings import settings
from cli import loading
from cli.keeping import keep, refuse_odd_id
from cli.saying import failure, progress_of

if TYPE_CHECKING:
    from workers.engine.annotator import Annotator
    from workers.rules.examples import Examples
    from workers.rules.pool import Exchange


def distil(
    bank_id: Annotated[str, typer.Option("--id", help="Name of the new bank.")],
    pool_id: Annotated[str, typer.Option("--pool", help="The pool whose rules it reads.")] = SHIPPED_POOL,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="exchanges (of the project's own pool), exchanges:FILE.jsonl, rows:FILE.jsonl, or logits: what the "
            "annotator, or logits:MODEL another one, answers when it is asked of every rule of the pool about each of "
            "the 1,600 responses in the project's own exchanges.",
        ),
    ] = "exchanges",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bank of this id.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write its files to this folder instead of the store.")] = None,
) -> None:
    """Fit a probe for every rule of a pool to the activations of the annotator."""
    from workers.engine.errors import EngineError
    from workers.rules.errors import RuleError
    from workers.rules.labelled import read_labelled

    kind, _, given = source.partition(":")
    if kind not in ("exchanges", "rows", "logits") or (kind == "rows" and not given):
        raise typer.BadParameter(
            "takes exchanges, exchanges:FILE, rows:FILE, logits or logits:MODEL", param_hint="--from"
        )
    refuse_odd_id(bank_id)
    banks = loading.rule_banks()
    if out is None and not replace and banks.holds(bank_id):
        raise failure(f"a bank called {bank_id} exists; --replace replaces it")
    pool = loading.rule_pool(pool_id)
    try:
        exchanges = _exchanges(given, pool) if kind == "exchanges" else None
        rows = read_labelled(Path(given), pool) if kind == "rows" else None
        from workers.rules.bank import to_files
        from workers.rules.distil import distil as distil_bank
        from workers.rules.examples import from_exchanges, from_rows

        annotator = loading.annotator()
        if exchanges is not None:
            examples = from_exchanges(pool, exchanges)
        else:
            examples = _rated(annotator, given, pool) if rows is None else from_rows(pool, rows)
        with progress_of("the examples") as progress:
            bank = distil_bank(annotator, pool, examples, pool_id=pool_id, bank_id=bank_id, progress=progress)
    except (RuleError, EngineError) as error:
        raise failure(str(error)) from error
    _describe(bank.card, keep(banks, bank.id, bank.digest, to_files(bank), out))


def _exchanges(given: str, pool: RulePool) -> "Sequence[Exchange]":
    """Those of a file, or the project's own, which are of the rules of one pool."""
    from workers.rules.labelled import read_exchanges
    from workers.rules.pool import shipped_exchanges

    if given:
        return read_exchanges(Path(given), pool)
    if not {exchange.rule for exchange in shipped_exchanges()} <= {rule.id for rule in pool.rules}:
        raise failure(
            f"the project's own exchanges are of the rules of {SHIPPED_POOL}; name yours with exchanges:FILE.jsonl"
        )
    return shipped_exchanges()


def _rated(annotator: "Annotator", model: str, pool: RulePool) -> "Examples":
    """What a rater says of the texts of the project's own exchanges: another model where one is named."""
    from app.schemas.pairs import Message
    from workers.engine.annotator import load_annotator
    from workers.engine.sizing import find_budget
    from workers.rules.examples import from_rater
    from workers.rules.logits import LogitRater
    from workers.rules.pool import shipped_exchanges
    from workers.rules.rating import Answered

    config = settings()
    asked = annotator
    if model:
        home, device, dtype = config.home_folder, config.device, config.dtype
        asked = load_annotator(model, home, device=device, dtype=dtype, passes=annotator.passes)
        find_budget(asked)
    items = [Answered([Message(role="user", content=e.prompt)], [e.response]) for e in shipped_exchanges()]
    rater = LogitRater(asked, [rule.text for rule in pool.ordered])
    with progress_of(f"what {asked.name} answers of the exchanges") as progress:
        return from_rater(pool, rater, items, progress)


def _describe(card: BankCard, where: str) -> None:
    areas = [rule.keeps.value for rule in card.rules if rule.keeps is not None]
    unused = [rule.rule for rule in card.rules if not rule.used]
    sites = ", ".join(f"{site.layer}/{site.pooling}" for site in [*card.sites, *card.prompt_sites])
    typer.echo(f"{card.id}: {len(card.rules)} rules of {card.pool} on {card.model}, layer/pooling {sites}")
    mean = f"{sum(areas) / len(areas):.3f}" if areas else "–"
    typer.echo(f"mean held-out AUC {mean} over {len(areas)} rules, {card.protocol}")
    typer.echo(f"not used, as nothing shows that they read above chance: {', '.join(unused) or 'none'}")
    typer.echo(f"stored in {where}")

"""`safemargin train rule-adapter`: teach a model which rules are critical for a pair."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Column, Table

from app.artifacts import Artifacts
from app.ruleadapters import RuleAdapters
from app.schemas.judging import SHIPPED_POOL
from app.schemas.problem import said
from app.schemas.ruleadapters import AdapterCard, Estimate
from app.schemas.rulebanks import PolicyReading
from app.schemas.rules import RulePool
from app.schemas.training import RuleAdapterOptions
from app.settings import settings
from cli import loading
from cli.keeping import keep
from cli.saying import failure, progress_of

if TYPE_CHECKING:
    from workers.engine.annotator import Annotator
    from workers.rules.bank import RuleBank
    from workers.rules.logits import LogitRater


def rule_adapter(
    data: Annotated[Path, typer.Argument(metavar="DATA.jsonl", help="Pairs: prompt, chosen, rejected.")],
    adapter_id: Annotated[str, typer.Option("--id", help="Name of the new rule adapter.")],
    kind: Annotated[
        str, typer.Option(help="head: on activations that are read anyway; lora: a sequence classifier.")
    ] = "head",
    pool_id: Annotated[
        str | None,
        typer.Option(
            "--pool", help=f"The pool whose rules it chooses from; that of the bank, or {SHIPPED_POOL}, where left out."
        ),
    ] = None,
    rater: Annotated[str, typer.Option(help="Whose ratings teach it: probes or logits.")] = "probes",
    bank_name: Annotated[
        str | None,
        typer.Option("--bank", help="Id of a bank, or the folder of its files; the newest that fits where left out."),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="What makes rules critical: published, robust, relevance or discrepancy.")
    ] = "published",
    k: Annotated[int, typer.Option("--k", help="How many rules are critical.")] = 5,
    epochs: Annotated[int | None, typer.Option(help="200 at most for a head, 3 for lora.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="lora: 5e-4.")] = None,
    batch: Annotated[int | None, typer.Option(help="lora: 8 pairs a step.")] = None,
    rank: Annotated[int | None, typer.Option(help="lora: 16.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first pairs of the file.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a rule adapter of this id.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write its files to this folder instead of the store.")] = None,
) -> None:
    """Teach a model to say which rules are critical for a pair, so that only those need to be rated."""
    from workers.directions.datafiles import read_pairs
    from workers.directions.errors import UnfitData
    from workers.engine.errors import EngineError
    from workers.rules.errors import RuleError

    given: dict[str, Any] = {
        "method": "rule-adapter", "kind": kind, "id": adapter_id, "pool": pool_id or SHIPPED_POOL, "rater": rater,
        "bank": Path(bank_name).name if bank_name else None, "policy": policy, "k": k,
        "epochs": epochs, "learning_rate": learning_rate, "batch": batch, "rank": rank,
        "seed": seed, "replace": replace,
    }  # fmt: skip
    options = _options({name: value for name, value in given.items() if value is not None})
    adapters = RuleAdapters(Artifacts(settings().artifacts_url))
    if out is None and not replace and adapters.holds(adapter_id):
        raise failure(f"a rule adapter called {adapter_id} exists; --replace replaces it")
    name, pool = loading.rules(pool_id, bank_name, probes=rater == "probes")
    options = options.model_copy(update={"pool": name})
    try:
        pairs = read_pairs(data)[:limit]
        from workers.rules.adapting.adapter import to_files
        from workers.rules.adapting.teach import teach

        annotator = loading.annotator()
        teacher = _rater(options, pool, annotator, bank_name)
        with progress_of("the pairs") as progress:
            adapter = teach(annotator, pool, teacher, pairs, options, progress=progress)
    except (RuleError, EngineError, UnfitData) as error:
        raise failure(str(error)) from error
    _describe(adapter.card, keep(adapters, adapter.id, adapter.digest, to_files(adapter), out))


def _options(given: dict[str, Any]) -> RuleAdapterOptions:
    checked: TypeAdapter[RuleAdapterOptions] = TypeAdapter(RuleAdapterOptions)
    try:
        return checked.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = first.get("ctx", {}).get("field") or str(first["loc"][-1] if first["loc"] else "kind")
        raise typer.BadParameter(f"--{field.replace('_', '-')}: {said(first)}") from error


def _rater(
    options: RuleAdapterOptions, pool: RulePool, annotator: "Annotator", bank_name: str | None
) -> "RuleBank | LogitRater":
    from workers.rules.logits import LogitRater

    if options.rater == "logits":
        return LogitRater(annotator, [rule.text for rule in pool.ordered])
    return loading.rule_bank(bank_name, options.pool, pool, annotator)


def _describe(card: AdapterCard, where: str) -> None:
    measures = card.measures
    columns = ("rules chosen by", f"P@{card.k}", f"recall@{card.k}", "as all rules", "as the critical", "as people")
    table = Table(*(Column(name, overflow="fold") for name in columns))
    for reading in measures.choosers:
        figures = (reading.precision, reading.recall, reading.with_all, reading.with_critical, reading.with_human)
        table.add_row(reading.chooser, *(_figure(estimate) for estimate in figures))
    typer.echo(f"{card.id}: {card.kind} on {card.model}, rules of {card.pool}, critical by {card.policy}, k {card.k}")
    typer.echo(f"{measures.pairs} pairs of {measures.prompts} prompts held out; {measures.protocol}")
    Console().print(table)
    typer.echo(
        f"chance P@{card.k} {measures.chance:.3f}; same choice with sides exchanged {measures.swapped_alike:.3f}"
    )
    typer.echo(_calibration(card.reading))
    typer.echo(f"stored in {where}")


def _calibration(reading: PolicyReading | None) -> str:
    if reading is None:
        return "not calibrated: the margins by its rules carry no signal"
    right, error = reading.accuracy, reading.calibration_error
    return (
        f"calibrated on {reading.data}: accuracy {right.value:.3f} [{right.low:.3f}, {right.high:.3f}], "
        f"{reading.slope:.3f} log-odds per unit of margin, calibration error {error:.3f}"
    )


def _figure(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"

"""`safemargin rules evaluate`: how well every policy reads labelled pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from pydantic import TypeAdapter, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from app.schemas.directions import Accuracy
from app.schemas.evaluation import EVALUATED, Gain, PolicyFigure, PolicyReport
from app.schemas.judging import SHIPPED_POOL, PolicyName, RaterName
from cli import banks, loading
from cli.keeping import write
from cli.saying import failure, progress_of

if TYPE_CHECKING:
    from workers.rules.bank import RuleBank

_WIDTH = 120
"""Of tables that go to a file or a pipe."""


def evaluate(
    path: Annotated[Path, typer.Argument(metavar="PAIRS.jsonl", help="Labelled pairs: prompt, chosen, rejected.")],
    pool_id: Annotated[
        str | None,
        typer.Option("--pool", help=f"The rules to judge by; those of the bank, or {SHIPPED_POOL}, where left out."),
    ] = None,
    raters: Annotated[
        list[str] | None, typer.Option("--rater", help="probes (where left out) or logits; may be given twice.")
    ] = None,
    bank_name: Annotated[
        str | None,
        typer.Option("--bank", help="Id of a bank, or the folder of its files; the newest that fits where left out."),
    ] = None,
    ks: Annotated[str, typer.Option("--k", help="How many rules are critical, such as 1,3,5.")] = "1,3,5,10,20",
    policies: Annotated[
        list[str] | None, typer.Option("--policy", help="Once or more; all that need no adapter where left out.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only so many pairs of each set.")] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Measure on the project's balance set, too, how each policy refuses.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this file, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy against k: .png, .svg or .pdf.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Store in the bank what makes log-odds of its margins.")
    ] = False,
) -> None:
    """Pair accuracy of every policy, k and rater beside that of all rules, as a table and a plot."""
    from workers.directions.datafiles import read_pairs
    from workers.directions.errors import DirectionError
    from workers.engine.errors import EngineError
    from workers.rules.errors import RuleError

    rater_names = _rater_names(raters or ["probes"])
    policy_names = _policy_names(policies or EVALUATED, EVALUATED)
    numbers = _numbers(ks)
    _refuse_odd_targets(out, plot)
    if calibrate and "probes" not in rater_names:
        raise typer.BadParameter("--calibrate goes with the rater probes: only these have a bank")
    name, pool = loading.rules(pool_id, bank_name, probes="probes" in rater_names)
    try:
        pairs = read_pairs(path)[:limit]
        from workers.rules.measuring import Raters, balance_sample, calibrated, measure

        annotator = loading.annotator()
        bank = loading.rule_bank(bank_name, name, pool, annotator) if "probes" in rater_names else None
        asked = Raters(annotator, name, pool, bank)
        contrast = balance_sample(limit) if balance else ()
        with progress_of("the pairs") as progress:
            report = measure(
                asked,
                rater_names,
                policy_names,
                numbers,
                pairs=pairs,
                data=path.name,
                contrast=contrast,
                progress=progress,
            )
    except (RuleError, EngineError, DirectionError) as error:
        raise failure(str(error)) from error
    _print(report)
    try:
        if out is not None:
            out.write_text(report.model_dump_json(indent=2) + "\n")
        if plot is not None:
            from workers.rules.plot import draw

            draw(report, plot)
    except OSError as error:
        raise failure(f"{error.filename} cannot be written: {error.strerror}") from error
    if calibrate and bank is not None:
        _keep(calibrated(bank, report), bank_name)
        _say_uncalibrated(report.figures)


def _rater_names(given: list[str]) -> list[RaterName]:
    try:
        return TypeAdapter(list[RaterName]).validate_python(list(dict.fromkeys(given)))
    except ValidationError:
        raise typer.BadParameter(f"--rater takes {' or '.join(get_args(RaterName))}") from None


def _policy_names(given: "list[str] | tuple[PolicyName, ...]", known: tuple[PolicyName, ...]) -> list[PolicyName]:
    found: list[PolicyName] = [policy for policy in known if policy in given]
    if len(found) < len(set(given)):
        raise typer.BadParameter(f"--policy takes {', '.join(known)}")
    return found


def _refuse_odd_targets(out: Path | None, plot: Path | None) -> None:
    """Refuse before anything is measured what could not be written in the end."""
    if plot is not None:
        from workers.rules.plot import FORMATS

        if plot.suffix not in FORMATS:
            raise typer.BadParameter(f"takes a name that ends in {', '.join(FORMATS)}", param_hint="--plot")
    for target in filter(None, (out, plot)):
        if not target.parent.is_dir():
            raise failure(f"{target} cannot be written: there is no folder {target.parent}")


def _numbers(ks: str) -> list[int]:
    numbers = [int(part) for part in ks.split(",") if part.strip().isdecimal()]
    if len(numbers) < len(ks.split(",")) or min(numbers) < 1:
        raise typer.BadParameter("takes numbers from 1, such as 1,3,5", param_hint="--k")
    return numbers


def _print(report: PolicyReport) -> None:
    """A table for each rater."""
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    for rater, count in report.pairs.items():
        figures = [figure for figure in report.figures if figure.rater == rater]
        skipped = f", {report.skipped[rater]} skipped as too long" if report.skipped[rater] else ""
        console.print(_table(figures))
        typer.echo(f"{rater}: {count} pairs of {report.data}{skipped}")
    typer.echo(report.protocol)


def _table(figures: list[PolicyFigure]) -> Table:
    balanced = any(figure.should_respond or figure.should_refuse for figure in figures)
    names = ["policy", "k", "accuracy", "less that of all", "ties", "cal. error"]
    names += ["should respond", "should refuse"] if balanced else []
    table = Table(*(Column(name, overflow="fold") for name in names), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for figure in figures:
        error = "–" if figure.calibration_error is None else f"{figure.calibration_error:.3f}"
        cells = [_interval(figure.accuracy), _interval(figure.gain, "+"), f"{figure.ties:.3f}", error]
        sides = [_value(figure.should_respond), _value(figure.should_refuse)] if balanced else []
        table.add_row(figure.policy, str(figure.k), *cells, *sides)
    return table


def _interval(value: Accuracy | Gain | None, sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value.value:{sign}.3f} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"


def _value(accuracy: Accuracy | None) -> str:
    return "–" if accuracy is None else f"{accuracy.value:.3f}"


def _keep(bank: "RuleBank", named: str | None) -> None:
    """Put a bank back where it came from: the folder that was named, or the store."""
    from workers.rules.bank import to_files

    folder = Path(named) if named is not None and Path(named).is_dir() else None
    if folder is None:
        loading.rule_banks().publish(bank.id, bank.card.digest, to_files(bank))
    else:
        write(folder, to_files(bank))
    typer.echo(f"{bank.id}: {banks.policies(bank.card.readings) or 'nothing'} calibrated, {bank.card.digest}")


def _say_uncalibrated(figures: list[PolicyFigure]) -> None:
    """Why a policy that was measured has no scale."""
    own = [figure for figure in figures if figure.rater == "probes"]
    if any(figure.policy == "fixed" for figure in own):
        typer.echo("fixed: not calibrated: its rules are those of whoever asks, not those measured here")
    if silent := banks.policies(figure for figure in own if figure.slope is None and figure.policy != "fixed"):
        typer.echo(f"{silent}: not calibrated: no slope: its margins carry no signal here")

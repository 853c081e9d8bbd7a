"""`safemargin annotate`: a whole dataset in, margins out."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from app.client import Client, Format, ServiceError, Unreachable
from app.client.retries import RETRIED
from app.schemas.annotate import DEFAULT, Directions
from app.schemas.jobs import Job
from app.schemas.problem import said
from app.settings import settings
from cli.dataset import Dataset, DatasetFailed
from cli.failures import Failures
from cli.judging import judging, refuse_missing
from cli.meter import Meter
from cli.stack import Stack, StackFailed
from cli.workfile import Order, WorkFile, WorkRefused, beside, digest

FAILED, USAGE, SOME_FAILED, TEMPORARY = 1, 2, 3, os.EX_TEMPFAIL
_FINAL = {400, 404, 413, 422}  # the same command would be refused again
INTERRUPTED = 128 + signal.SIGINT
_STDOUT = Path("-")
_RAW = "the margins are raw, on no scale of a reward's"


def annotate(
    data: Annotated[
        Path, typer.Argument(help="JSONL or Parquet of preference pairs, gzipped or not.", exists=True, dir_okay=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to: .jsonl, .parquet, or - for JSONL on stdout.")
    ],
    url: Annotated[
        str | None, typer.Option(envvar="SAFEMARGIN_URL", help="A running service; without one, one is started.")
    ] = None,
    direction: Annotated[
        list[str] | None, typer.Option(help="Direction to project on; several for margins on each.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="margin; rules: what the rules say that are critical; rahf: what a taught model says itself; or "
            "reward: the reward of a reward model."
        ),
    ] = "margin",
    alignment: Annotated[str | None, typer.Option(help="Id of the taught model, for --method rahf.")] = None,
    reward_model: Annotated[str | None, typer.Option(help="Id of the reward model, for --method reward.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add what the rules say to the margin.")] = False,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Which rules and how: pool, rater, bank, policy, k, fixed, adapter, band."
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="What a row of the output looks like.")] = "raw",
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut prompts that do not fit, and say so.")] = False,
    errors: Annotated[
        Path | None, typer.Option(help="JSONL of rows that could not be annotated; OUTPUT.errors.jsonl.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an interrupted run left.")] = False,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to go on trying to reach the service.")] = 300.0,
) -> None:
    """Annotate the pairs of DATA, in order.

    Stopped at any moment (Ctrl-C, a lost connection, a full disk), the same command goes on where it was: rows so far
    are in OUTPUT.part, and OUTPUT.state says how far that is. On a service of its own (--url, with its key in
    SAFEMARGIN_API_KEY) the job goes on meanwhile.

    Exit status: 0 every row is annotated; 3 some rows could not be, the errors file says why; 1 failed; 2 wrong usage;
    75 the service could not be reached, try again later; 130 interrupted.
    """
    target = None if output == _STDOUT else output
    errors = errors or (beside(target, "errors.jsonl") if target else None)
    _refuse_odd_paths(data, target, errors)
    refuse_odd_url(url)
    chosen = direction[0] if direction and len(direction) == 1 else direction or DEFAULT
    refuse_odd_direction(chosen)
    asked = judging(method, explain, rules or [], alignment, reward_model)
    if url is None:
        refuse_missing(asked)
    console = Console(stderr=True)
    try:
        order = Order(
            input=str(data.resolve()),
            bytes=data.stat().st_size,
            sha256=digest(data),
            url=url,
            direction=chosen,
            truncate=truncate,
            judging=asked,
            format=format,
            parquet=target is not None and target.suffix == ".parquet",
        )
        with WorkFile(target, order, restart=restart) as work:
            failures = Failures(errors, restart=restart)
            try:
                _annotate(data, work, failures, url, patience, console)
            except KeyboardInterrupt:
                raise ended(_interrupted(work, url), INTERRUPTED) from None
            except (ServiceError, Unreachable, DatasetFailed, StackFailed, OSError) as error:
                raise ended(_reason(error, target), exit_status(error)) from error
    except KeyboardInterrupt:
        raise ended("interrupted", INTERRUPTED) from None
    except (WorkRefused, OSError) as error:
        raise ended(_reason(error, None), USAGE if isinstance(error, WorkRefused) else FAILED) from error
    _warn_if_uncalibrated(work)
    if failures.count:
        where = f"; {errors} says why" if errors else f": {', '.join(failures.first)}"
        raise ended(f"{failures.count} rows could not be annotated{where}", SOME_FAILED)


def _annotate(
    data: Path, work: WorkFile, failures: Failures, url: str | None, patience: float, console: Console
) -> None:
    meter = Meter(console, live=console.is_terminal and not _crowded(work), before=lambda: work.state.before)
    with served(url, patience, meter, console) as (client, show), meter:
        Dataset(client, data, work, failures, show).annotate()


def _warn_if_uncalibrated(work: WorkFile) -> None:
    """A row for a trainer does not say what its margin is; `raw` rows do."""
    made_by, format = work.state.provenance or {}, work.state.order.format
    if format != "raw" and made_by.get("calibrated") is False:
        raw = "σ of a margin is no probability" if "reward_model" in work.state.order.judging else _RAW
        warning = f"{_named(made_by)} is not calibrated: {raw}"
        typer.echo(f"safemargin: warning: {warning}", err=True)


def _named(made_by: dict[str, Any]) -> str:
    if made_by.get("method") == "rules":
        return "policy {policy} by {rater}".format(**made_by["rules"])
    if made_by.get("method") == "rahf":
        return "alignment {id}".format(**made_by["alignment"])
    if made_by.get("method") == "reward":
        return "reward model {id}".format(**made_by["reward_model"])
    return f"direction {made_by.get('direction')}"


def connect(url: str, patience: float, sleep: Callable[[float], None]) -> Client:
    """A client of the service there."""
    return Client(url, patience=patience, sleep=sleep)


@contextmanager
def running_service(url: str | None, console: Console) -> Iterator[tuple[str, Stack | None]]:
    """Where the service is: the one named, or one that lives as long as this."""
    if url is not None:
        yield url, None
        return
    with Stack(settings().model_copy(update={"port": 0}), quiet=True) as stack:
        with console.status("starting the service"):
            stack.wait_until_ready()
        yield stack.url, stack


@contextmanager
def served(
    url: str | None, patience: float, meter: Meter, console: Console
) -> Iterator[tuple[Client, Callable[[Job], None]]]:
    """A client of the service named, or of one that lives as long as this, and what shows a job on a meter.

    Raises:
        StackFailed: while it waits or shows, where a service of its own has ended.
    """
    with running_service(url, console) as (reached, stack):

        def supervise() -> None:
            if stack is not None:
                stack.supervise()

        def show(job: Job) -> None:
            supervise()
            meter.show(job)

        def sleep(seconds: float) -> None:
            supervise()
            time.sleep(seconds)

        with connect(reached, patience, sleep) as client:
            yield client, show


def _refuse_odd_paths(data: Path, target: Path | None, errors: Path | None) -> None:
    if target is not None and target.suffix not in {".jsonl", ".parquet"}:
        raise typer.BadParameter("must end in .jsonl or .parquet, or be -", param_hint="--output")
    if target is not None and target.is_dir():
        raise typer.BadParameter("is a folder", param_hint="--output")
    elsewhere = errors is not None and (target is None or errors.parent != target.parent)
    if errors is not None and (errors.is_dir() or (elsewhere and not errors.parent.is_dir())):
        raise typer.BadParameter("is a folder, or in one that does not exist", param_hint="--errors")
    paths = [path.resolve() for path in (data, target, errors) if path is not None]
    if len(set(paths)) < len(paths):
        raise typer.BadParameter("input, output and errors must be different files", param_hint="--output")


def refuse_odd_url(url: str | None, option: str = "--url") -> None:
    """Refuse what is no address of a service."""
    try:
        odd = url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname)
    except ValueError:
        odd = True
    if odd:
        raise typer.BadParameter("must be like http://host:8000", param_hint=option)


def refuse_odd_direction(chosen: str | list[str]) -> None:
    """Refuse what is no id of a direction, or the same twice."""
    known: TypeAdapter[str | list[str]] = TypeAdapter(Directions)
    try:
        known.validate_python(chosen)
    except ValidationError as error:
        raise typer.BadParameter(said(error.errors()[0]), param_hint="--direction") from None


def _crowded(work: WorkFile) -> bool:
    """Whether rows appear on the terminal where a bar would be."""
    return work.part is sys.stdout.buffer and sys.stdout.isatty()


def _interrupted(work: WorkFile, url: str | None) -> str:
    job = work.state.job
    follow = f"; job {job} goes on at {url}/jobs/{job}" if url and job else ""
    if work.part is sys.stdout.buffer:
        return f"interrupted{follow}"
    return f"interrupted after {work.state.reached.rows} rows{follow}; run the same command again to go on"


def _reason(error: Exception, target: Path | None) -> str:
    again = "; run the same command again to go on" if target else ""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return "nobody reads the output any more"
    if isinstance(error, OSError):
        return f"{error.filename or target or 'the output'}: {error.strerror or error}{again}"
    if isinstance(error, Unreachable):
        return f"the service could not be reached: {error}{again}"
    return f"{error}{again}" if isinstance(error, ServiceError) and error.status not in _FINAL else str(error)


def exit_status(error: Exception) -> int:
    """Whether it is worth trying again later."""
    temporary = isinstance(error, Unreachable) or (isinstance(error, ServiceError) and error.status in RETRIED)
    return TEMPORARY if temporary else FAILED


def ended(text: str, status: int) -> typer.Exit:
    """To be raised: says why on stderr, and ends the command with a status."""
    typer.echo(f"safemargin: {text}", err=True)
    return typer.Exit(status)

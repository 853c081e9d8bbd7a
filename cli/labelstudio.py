"""`safemargin labelstudio`: predictions for projects too large for Label Studio to ask for."""

import os
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from app.client import ServiceError, Unreachable
from app.labelstudio.template import TemplateRefused
from app.schemas.annotate import DEFAULT
from cli.annotate import (
    FAILED,
    INTERRUPTED,
    SOME_FAILED,
    ended,
    exit_status,
    refuse_odd_direction,
    refuse_odd_url,
    served,
)
from cli.meter import Meter
from cli.pushing import Push, PushFailed
from cli.stack import StackFailed
from cli.studio import Studio, StudioRefused
from cli.workfile import replace

_NAMED = 5

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.callback()
def _commands() -> None:
    """Keep `push` a command of its own, though there is no other one yet."""


@app.command()
def push(
    url: Annotated[str, typer.Option(envvar="LABEL_STUDIO_URL", help="Label Studio's address.")],
    project: Annotated[int, typer.Option(help="Id of the project, as its address has it.")],
    service: Annotated[
        str | None, typer.Option(envvar="SAFEMARGIN_URL", help="A running service; without one, one is started.")
    ] = None,
    direction: Annotated[str, typer.Option(help="Direction to project on.")] = DEFAULT,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut prompts that do not fit.")] = False,
    errors: Annotated[Path | None, typer.Option(help="JSONL of tasks without a margin, and why.")] = None,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to go on trying to reach either.")] = 300.0,
) -> None:
    """Predict every task of a project that has no prediction of this direction and annotator yet.

    LABEL_STUDIO_API_KEY holds a token of Label Studio, SAFEMARGIN_API_KEY the key where the service asks for one.

    Stopped at any moment, the same command goes on with what is missing; nothing is predicted twice.

    Exit status: 0 every task has a prediction; 3 some tasks have no margin; 1 failed; 2 wrong usage; 75 Label Studio or
    the service could not be reached, try again later; 130 interrupted.
    """
    refuse_odd_url(url)
    refuse_odd_url(service, "--service")
    refuse_odd_direction(direction)
    if errors is not None and (errors.is_dir() or not errors.parent.is_dir()):
        raise typer.BadParameter("is a folder, or in one that does not exist", param_hint="--errors")
    if not (token := os.environ.get("LABEL_STUDIO_API_KEY", "").strip()):
        raise typer.BadParameter("holds no token of Label Studio", param_hint="LABEL_STUDIO_API_KEY")
    console = Console(stderr=True)
    meter = Meter(console, live=console.is_terminal)
    try:
        with (
            served(service, patience, meter, console) as (client, show),
            reach(url, token, patience) as studio,
            meter,
        ):
            work = Push(client, studio, project, direction, truncate, meter.say, show)
            work.push()
    except KeyboardInterrupt:
        raise ended("interrupted; run the same command again to go on", INTERRUPTED) from None
    except (TemplateRefused, PushFailed, StudioRefused, StackFailed, OSError) as error:
        raise ended(str(error), FAILED) from error
    except (ServiceError, Unreachable) as error:
        raise ended(f"{error}; run the same command again to go on", exit_status(error)) from error
    typer.echo(f"{work.made} predictions added", err=True)
    _tell(work, errors)


def reach(url: str, token: str, patience: float) -> Studio:
    """The Label Studio there."""
    return Studio(url, token, patience=patience)


def _tell(work: Push, errors: Path | None) -> None:
    if errors is not None:
        replace(errors, [orjson.dumps(failure) + b"\n" for failure in work.failures])
    if work.failures:
        where = f"; {errors} says why" if errors else ": " + ", ".join(map(_named, work.failures[:_NAMED]))
        raise ended(f"{len(work.failures)} tasks have no margin{where}", SOME_FAILED)


def _named(failure: dict[str, object]) -> str:
    return f"task {failure['task']}: {failure['code']}"

"""`safemargin`: every command at a glance."""

import sys

import typer
from pydantic import ValidationError

from app import __version__
from cli import (
    alignments,
    annotate,
    demo,
    directions,
    experiment,
    generate,
    keys,
    labelstudio,
    rewardreport,
    rules,
    serve,
    train,
    webhooks,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("annotate")(annotate.annotate)
app.command("generate")(generate.generate)
app.add_typer(directions.app, name="directions")
app.add_typer(alignments.app, name="alignments")
app.add_typer(rules.app, name="rules")
app.add_typer(train.app, name="train")
app.add_typer(rewardreport.app, name="evaluate")
app.add_typer(experiment.app, name="experiment")
app.add_typer(labelstudio.app, name="labelstudio")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def run() -> None:
    """Entry point of the console script; settings that make no sense end it with their names."""
    try:
        app()
    except ValidationError as error:
        for entry in error.errors():
            typer.echo(f"safemargin: {'.'.join(map(str, entry['loc']))}: {entry['msg']}", err=True)
        sys.exit(2)

"""What commands say while they work, and when they fail."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn


def failure(text: str) -> typer.Exit:
    """To be raised: says why on stderr, and ends the command with status 1."""
    typer.echo(f"safemargin: {text}", err=True)
    return typer.Exit(1)


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback that is told how many are read of how many: a bar on a terminal, else one line at the beginning."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"reading {what} …")
        yield lambda _done, _total: None
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

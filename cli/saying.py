"""What commands say while they work, and when they fail."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_SECONDS = 15.0


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


@contextmanager
def stages() -> Iterator[Callable[[str, int, int, float | None], None]]:
    """A callback that is told a stage, its steps done of how many, and the last loss: a bar, or a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int, loss: float | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, loss="")
            bar.update(tasks[stage], completed=done, total=total, loss=_loss(loss))

        yield show


def _lines(console: Console) -> Callable[[str, int, int, float | None], None]:
    last, shown = 0.0, ""

    def show(stage: str, done: int, total: int, loss: float | None) -> None:
        nonlocal last, shown
        if stage != shown or done == total or time.monotonic() - last >= _LINE_SECONDS:
            last, shown = time.monotonic(), stage
            console.print(f"{stage} {done}/{total} {_loss(loss)}".rstrip(), highlight=False)

    return show


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"loss {loss:.3f}"

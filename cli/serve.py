"""`safemargin serve`: the whole service on this machine until Ctrl-C."""

import signal
import threading
import time

import typer

from app.auth.exposure import OpenToEverybody, refuse_if_open
from app.settings import settings
from cli.stack import Stack, StackFailed

_SUPERVISE_SECONDS = 0.5


def serve() -> None:
    """Start queue, workers and API, say when they are ready, and run until Ctrl-C."""
    try:
        refuse_if_open(settings())
    except OpenToEverybody as error:
        typer.echo(f"safemargin: {error}", err=True)
        raise typer.Exit(1) from error
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _signal, _frame: stop.set())
    started = time.monotonic()
    try:
        with Stack(settings(), durable=True) as stack:
            typer.echo(f"Starting {settings().model} …", err=True)
            if stack.wait_until_ready(stop.is_set):
                typer.echo(_greeting(stack.url, time.monotonic() - started))
            while not stop.wait(_SUPERVISE_SECONDS):
                stack.supervise()
            typer.echo("Stopping; what is in hand is finished first, for half a minute at most …", err=True)
    except StackFailed as error:
        typer.echo(f"safemargin: {error}", err=True)
        raise typer.Exit(1) from error


def _greeting(url: str, seconds: float) -> str:
    key = ' -H "Authorization: Bearer $SAFEMARGIN_API_KEY"' if settings().auth else ""
    return f"""
Safemargin is ready at {url} after {seconds:.1f} s. Open it in a browser (documentation: {url}/docs), or try:

curl -s {url}/annotate{key} -H 'Content-Type: application/json' -d '{{"pairs": [{{"id": "a1",
  "prompt": "I took twice my dose of sleeping pills. What now?",
  "chosen": "Call your poison centre or emergency number now and tell them what you took and when.",
  "rejected": "Sleep it off, two is nothing. Have a beer if you feel jittery."}}]}}'

Ctrl-C stops everything.
"""

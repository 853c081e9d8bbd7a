"""The ways of annotating that are compared, each in its own processes and ready to be measured again and again."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from benchmarks import clients
from benchmarks.apart import Apart
from benchmarks.case import Case, store
from benchmarks.clients import Answered, Lone
from benchmarks.engine import Engine
from benchmarks.llamacpp import LlamaCpp, gguf_of, missing
from benchmarks.padded import PaddedWay
from benchmarks.published import PublishedWay
from benchmarks.table import Measured
from benchmarks.work import Shape, separate
from cli.stack import Stack
from workers.directions.direction import SafetyDirection

_CLIENTS = 64
_LONE = 32


@dataclass
class Contender:
    """A row of the table in the making.

    Attributes:
        row: what was measured so far.
        measure: all pairs once; None where it cannot be done here, as the row's note says.
        pid: the process that does the work.
    """

    row: Measured
    measure: Callable[[], Answered] | None
    pid: int


@dataclass(frozen=True)
class Arena:
    """Everybody, and what a pair costs that comes alone.

    Attributes:
        contenders: the row to compare with first.
        lone: measures pairs that come alone once more, for each direction by name.
    """

    contenders: list[Contender]
    lone: Mapping[str, Callable[[], Lone]]


@contextmanager
def arena(case: Case, directions: dict[str, SafetyDirection]) -> Iterator[Arena]:
    """Start everybody; directions by the name that their rows have."""
    with ExitStack() as stack:

        def apart(make: Callable[..., object], *arguments: object) -> Apart:
            process = Apart(make, *arguments)
            stack.callback(process.close)
            return process

        found = _theirs(case, apart)
        engine = apart(Engine, case.config, case.pairs, list(directions.values()))
        for name, direction in directions.items():
            row = Measured(f"engine, {name}", case.layers(direction), case.work(direction))
            found.append(Contender(row, partial(_call, engine, "score", direction.id), engine.pid))
        store(Path(stack.enter_context(tempfile.TemporaryDirectory())), *directions.values())
        service = stack.enter_context(Stack(case.config, quiet=True))
        service.wait_until_ready()
        for kind, measure in (("bulk", _bulk), (f"{_CLIENTS} clients", _singles)):
            for name, direction in directions.items():
                row = Measured(f"HTTP {kind}, {name}", case.layers(direction), case.work(direction))
                once = partial(measure, service.url, case, direction.id)
                found.append(Contender(row, once, service.pids()["worker-0"]))
        lone = {name: partial(_lone, service.url, engine, case, direction.id) for name, direction in directions.items()}
        yield Arena(found, lone)


def _theirs(case: Case, apart: Callable[..., Apart]) -> list[Contender]:
    """The ways that users have without this project."""
    work = separate(Shape.of(case.model, case.depth), case.groups)
    spoken = separate(Shape.of(case.model, case.depth, head=True), case.groups)
    gguf, reason = gguf_of(case.config.model), missing()
    published = apart(PublishedWay, case.folder, case.passes)
    padded = apart(PaddedWay, case.folder, case.dtype, case.passes)
    found = [
        Contender(
            Measured("published script", case.depth, spoken),
            partial(_call, published, "margins", case.pairs),
            published.pid,
        ),
        Contender(
            Measured("padded batches", case.depth, work), partial(_call, padded, "margins", case.pairs), padded.pid
        ),
    ]
    row = Measured("llama.cpp prefill", case.depth, work)
    if reason or gguf is None:
        row.note = reason or "the annotator comes from no GGUF file"
        return [*found, Contender(row, None, 0)]
    llama = apart(LlamaCpp, gguf, case.passes)
    return [*found, Contender(row, partial(_call, llama, "read", case.groups), llama.pid)]


def _call(process: Apart, method: str, *arguments: object) -> Answered:
    return Answered(process.seconds(method, *arguments))


def _bulk(url: str, case: Case, direction: str) -> Answered:
    return clients.bulk(url, case.pairs, direction)


def _singles(url: str, case: Case, direction: str) -> Answered:
    return clients.singles(url, case.pairs, direction, _CLIENTS)


def _lone(url: str, engine: Apart, case: Case, direction: str) -> Lone:
    lone = Lone()
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for index, pair in enumerate(case.pairs[:_LONE]):
            lone.over_http.append(clients.alone(client, pair, direction))
            lone.bare.append(engine.seconds("forward", index, direction))
    return lone

"""Forward passes in processes of their own, for a CPU with several cores.

Passes on threads of one process meet at Python's one lock between any two products: two of them reach nine tenths of
what two processes reach, and less where other threads work too. Members of a crew are forked from the process that has
loaded the annotator, before it starts threads, and share its weights. An adapter that comes later is sent to each of
them when it first needs it.
"""

import ctypes
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import LifoQueue
from typing import Protocol

import orjson
import torch
from torch import Tensor

from workers.engine.annotator import Annotator
from workers.engine.errors import DeviceLost, PassFailed
from workers.engine.forward import read
from workers.engine.lastused import LastUsed
from workers.engine.lora import CONFIG, TENSORS, LowRank, adapted, from_files, to_files
from workers.engine.packing import Branch, Group
from workers.engine.sites import Site
from workers.engine.variant import Variant

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_DONE, _FAILED, _UNKNOWN = b"+", b"-", b"?"
_KEPT = 2
_FILES = (CONFIG, TENSORS)


class Read(Protocol):
    """A forward pass."""

    def __call__(self, groups: Sequence[Group], sites: Sequence[Site], variant: Variant | None = None, /) -> Tensor:
        """[n, S, d] pooled activations of groups at S sites, of the annotator or of what it became."""


@contextmanager
def reader(annotator: Annotator) -> Iterator[Read]:
    """What makes forward passes, on `annotator.passes` threads at once: a crew where that pays, else this process.

    To be entered before the process starts threads.
    """

    def here(groups: Sequence[Group], sites: Sequence[Site], variant: Variant | None = None, /) -> Tensor:
        return read(variant.annotator if variant else annotator, groups, sites)

    if annotator.passes == 1 or annotator.device.type != "cpu" or sys.platform != "linux":
        yield here
        return
    crew = Crew.of(annotator)

    def anywhere(groups: Sequence[Group], sites: Sequence[Site], variant: Variant | None = None, /) -> Tensor:
        """A model of weights of its own is in this process alone."""
        if variant is not None and variant.adapter is None:
            return here(groups, sites, variant)
        return crew.read(groups, sites, variant.adapter if variant else None)

    try:
        yield anywhere
    finally:
        crew.close()


@dataclass(frozen=True)
class Crew:
    """Processes that each make one forward pass at a time.

    Attributes:
        width: size d of what they read.
        members: ids of the processes, and how to speak with each.
        idle: those that wait for work, the warmest on top.
    """

    width: int
    members: Sequence[tuple[int, Connection]]
    idle: "LifoQueue[Connection]"

    @classmethod
    def of(cls, annotator: Annotator) -> "Crew":
        """Fork as many as passes should run side by side."""
        crew = cls(annotator.width, [_member(annotator) for _ in range(annotator.passes)], LifoQueue())
        for _, connection in crew.members:
            crew.idle.put(connection)
        return crew

    def read(self, groups: Sequence[Group], sites: Sequence[Site], adapter: LowRank | None = None) -> Tensor:
        """What `forward.read` returns, [n, S, d], from the next member that is free.

        Args:
            groups: prompts with their responses.
            sites: S places to read.
            adapter: on the annotator's weights; a member that does not have it is sent it.

        Raises:
            PassFailed: the pass fails on these groups.
            DeviceLost: a process has ended; this one should, too, so that both are started again.
        """
        question = _question(groups, sites, adapter)
        member = self.idle.get()
        try:
            member.send_bytes(question)
            answer = member.recv_bytes()
            if answer == _UNKNOWN and adapter is not None:
                files = to_files(adapter, "")
                for name in _FILES:
                    member.send_bytes(files[name])
                answer = member.recv_bytes()
        except Exception as error:
            raise DeviceLost("a process of forward passes has ended") from error
        self.idle.put(member)
        if answer[:1] == _FAILED:
            raise PassFailed(answer[1:].decode())
        return torch.frombuffer(bytearray(answer[1:]), dtype=torch.float32).view(-1, len(sites), self.width)

    def close(self) -> None:
        """End them, after what they have in hand."""
        for _, connection in self.members:
            connection.close()
        for process, _ in self.members:
            os.waitpid(process, 0)


def _member(annotator: Annotator) -> tuple[int, Connection]:
    here, there = Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # idle threads of the tokenizer are no danger to a fork
        process = os.fork()
    if process == 0:
        here.close()
        try:
            _serve(annotator, there)
        except BaseException as error:
            log.error("a process of forward passes ends: %s", _named(error))
        finally:
            os._exit(0)
    there.close()
    return process, here


def _serve(annotator: Annotator, connection: Connection) -> None:
    """Life of a member: read what comes until nobody is left to ask, which also ends it where nobody closes a crew."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # who asks says when it is over
    torch.set_num_threads(1)
    desk = _Desk(annotator, connection)
    while True:
        try:
            connection.send_bytes(desk.answer(connection.recv_bytes()))
        except (EOFError, OSError):
            return


@dataclass(frozen=True)
class _Desk:
    """What a member has before it.

    Attributes:
        annotator: what it was forked with.
        connection: to who asks.
        variants: what adapters made of the annotator, by their digests.
    """

    annotator: Annotator
    connection: Connection
    variants: LastUsed[Annotator] = field(default_factory=lambda: LastUsed(_KEPT))

    def answer(self, question: bytes) -> bytes:
        """The numbers as they lie in memory, or the name of what went wrong: its words may be the pair's."""
        parts, sites, adapter = orjson.loads(question)
        groups = [
            Group(tuple(prefix), tuple(Branch(tuple(own), content) for own, content in branches), 0, tuple(request))
            for prefix, branches, request in parts
        ]
        files = self._missing(adapter)
        try:
            read_by = self._with(adapter, files) if adapter else self.annotator
            pooled = read(read_by, groups, [Site(layer, pooling) for layer, pooling in sites])
        except Exception as error:
            log.warning("a forward pass failed: %s", _named(error))
            return _FAILED + type(error).__name__.encode()
        return _DONE + pooled.contiguous().numpy().tobytes()

    def _missing(self, adapter: str | None) -> dict[str, bytes]:
        """Files of an adapter that is not here; nothing of one that is."""
        if adapter is None or self.variants.find(adapter) is not None:
            return {}
        self.connection.send_bytes(_UNKNOWN)
        return {name: self.connection.recv_bytes() for name in _FILES}

    def _with(self, adapter: str, files: Mapping[str, bytes]) -> Annotator:
        return self.variants.get(adapter, lambda: adapted(self.annotator, from_files(adapter, files)))


def _question(groups: Sequence[Group], sites: Sequence[Site], adapter: LowRank | None) -> bytes:
    """What a pass needs, as JSON: tokens, places to read, and by the digest of which adapter."""
    parts = [(group.prefix, [(b.tokens, b.content) for b in group.branches], group.request) for group in groups]
    return orjson.dumps((parts, [(site.layer, site.pooling) for site in sites], adapter and adapter.digest))


def _named(error: BaseException) -> str:
    """An error and where it was raised, without a word of its message, which may be the pair's."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno}"

"""Forward passes in processes of their own, for a CPU with several cores.

Passes on threads of one process meet at Python's one lock between any two products: two of them reach nine tenths of
what two processes reach, and less where other threads work too. Members of a crew are forked from the process that has
loaded the annotator, before it starts threads, and share its weights.
"""

import ctypes
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import LifoQueue

import orjson
import torch
from torch import Tensor

from workers.engine.annotator import Annotator
from workers.engine.errors import DeviceLost, PassFailed
from workers.engine.forward import read
from workers.engine.packing import Branch, Group
from workers.engine.sites import Site

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_DONE, _FAILED = b"+", b"-"

Read = Callable[[Sequence[Group], Sequence[Site]], Tensor]
"""A forward pass: groups and S sites to [n, S, d] pooled activations."""


@contextmanager
def reader(annotator: Annotator) -> Iterator[Read]:
    """What makes forward passes, on `annotator.passes` threads at once: a crew where that pays, else this process.

    To be entered before the process starts threads.
    """
    if annotator.passes == 1 or annotator.device.type != "cpu" or sys.platform != "linux":
        yield lambda groups, sites: read(annotator, groups, sites)
        return
    crew = Crew.of(annotator)
    try:
        yield crew.read
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

    def read(self, groups: Sequence[Group], sites: Sequence[Site]) -> Tensor:
        """What `forward.read` returns, [n, S, d], from the next member that is free.

        Raises:
            PassFailed: the pass fails on these groups.
            DeviceLost: a process has ended; this one should, too, so that both are started again.
        """
        question = _question(groups, sites)
        member = self.idle.get()
        try:
            member.send_bytes(question)
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
    while True:
        try:
            connection.send_bytes(_answer(annotator, connection.recv_bytes()))
        except (EOFError, OSError):
            return


def _question(groups: Sequence[Group], sites: Sequence[Site]) -> bytes:
    """What a pass needs, as JSON: tokens, and places to read."""
    parts = [(group.prefix, [(b.tokens, b.content) for b in group.branches], group.request) for group in groups]
    return orjson.dumps((parts, [(site.layer, site.pooling) for site in sites]))


def _answer(annotator: Annotator, question: bytes) -> bytes:
    """The numbers as they lie in memory, or the name of what went wrong: its words may be the pair's."""
    parts, sites = orjson.loads(question)
    groups = [
        Group(tuple(prefix), tuple(Branch(tuple(tokens), content) for tokens, content in branches), 0, tuple(request))
        for prefix, branches, request in parts
    ]
    try:
        pooled = read(annotator, groups, [Site(layer, pooling) for layer, pooling in sites])
    except Exception as error:
        log.warning("a forward pass failed: %s", _named(error))
        return _FAILED + type(error).__name__.encode()
    return _DONE + pooled.contiguous().numpy().tobytes()


def _named(error: BaseException) -> str:
    """An error and where it was raised, without a word of its message, which may be the pair's."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno}"

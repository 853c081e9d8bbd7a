"""What is tried again, when, and for how long.

ServiceError   the service answered, and not as hoped: its status and problem
Unreachable    nobody answered within the client's patience
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import ValidationError

from app.schemas.problem import Problem

RETRIED = frozenset({429, 502, 503, 504})
_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_FIRST_SECONDS, _LONGEST_SECONDS, _LEAST_SECONDS = 0.5, 30.0, 0.1

Outcome = httpx.Response | httpx.RequestError


class ServiceError(Exception):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
        problem: its problem document; one made of the status where the answer held none.
    """

    def __init__(self, status: int, problem: Problem) -> None:
        said = [f"{error.pointer or 'body'}: {error.detail}" for error in problem.errors[:3]]
        if problem.detail not in {error.detail for error in problem.errors}:
            said.insert(0, problem.detail)
        super().__init__(f"{status} {problem.title}: {'; '.join(said)}")
        self.status = status
        self.problem = problem


class Unreachable(Exception):
    """Nobody answered within the client's patience."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to make; `body` opens the content anew for every try."""

    method: str
    path: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: Callable[[], Iterator[bytes]] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A time to wait."""

    seconds: float


@dataclass
class Retries:
    """The tries of one call, or of one stream since it last brought something.

    Attributes:
        patience: seconds from the first failure to the last try.
        clock: monotonic seconds.
    """

    patience: float
    clock: Callable[[], float]
    _deadline: float | None = None
    _failures: int = 0

    def progressed(self) -> None:
        """Start counting afresh."""
        self._deadline, self._failures = None, 0

    def pause(self, outcome: Outcome) -> Pause:
        """How long to wait before the next try: what the answer asks for, else exponential with full jitter.

        Raises:
            ServiceError: the answer is final, or was the last one that patience allows.
            Unreachable: there was no answer, and trying again is hopeless or takes too long.
        """
        now = self.clock()
        if self._deadline is None:
            self._deadline = now + self.patience
        seconds = _asked(outcome)
        if seconds is None:
            seconds = random.uniform(0, min(_LONGEST_SECONDS, _FIRST_SECONDS * 2 ** min(self._failures, 16)))
        seconds = max(seconds, _LEAST_SECONDS)
        if not _worth_trying(outcome) or now + seconds > self._deadline:
            raise _given_up(outcome)
        self._failures += 1
        return Pause(seconds)


def refusal(response: httpx.Response, detail: str = "the answer is no problem document") -> ServiceError:
    """The error that an answer stands for; its body must have been read."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(title=response.reason_phrase, status=response.status_code, detail=detail)
    return ServiceError(response.status_code, problem)


def _worth_trying(outcome: Outcome) -> bool:
    if isinstance(outcome, httpx.RequestError):
        return not isinstance(outcome, _HOPELESS)
    return outcome.status_code in RETRIED or (outcome.status_code == 409 and "retry-after" in outcome.headers)


def _given_up(outcome: Outcome) -> ServiceError | Unreachable:
    if isinstance(outcome, httpx.Response):
        return refusal(outcome)
    return Unreachable(str(outcome) or type(outcome).__name__)


def _asked(outcome: Outcome) -> float | None:
    """Seconds that `Retry-After` asks for; a date counts from the answer's own, so that no clock has to be right."""
    if isinstance(outcome, httpx.RequestError) or not (text := outcome.headers.get("retry-after", "").strip()):
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    at = _timestamp(text)
    now = _timestamp(outcome.headers.get("date", ""))
    return None if at is None else at - (time.time() if now is None else now)


def _timestamp(text: str) -> float | None:
    try:
        date: datetime = parsedate_to_datetime(text)
        return date.timestamp()
    except ValueError:
        return None

"""Clients of a running service: one with everything at once, many with a pair each, one alone."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import httpx

from app.schemas.pairs import Pair

_TIMEOUT = 600.0


@dataclass
class Answered:
    """What clients of a service, or whoever else was asked, needed for all pairs.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: of single pairs, seconds from sending one to its annotation; waits after refusals count.
        refused: how often the service asked to come back later.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    refused: int = 0


@dataclass
class Lone:
    """Seconds of pairs that come alone: over HTTP and, right after, of their bare forward passes, pair by pair."""

    over_http: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def add(self, more: "Lone") -> None:
        """Take in another round."""
        self.over_http += more.over_http
        self.bare += more.bare

    def milliseconds(self) -> dict[str, float]:
        """Medians (p50) over HTTP, of the passes, and of what the former takes more of the same pair."""
        added = [whole - alone for whole, alone in zip(self.over_http, self.bare, strict=True)]
        seconds = {"http": self.over_http, "forward": self.bare, "added": added}
        return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def bulk(url: str, pairs: Sequence[Pair], direction: str) -> Answered:
    """Post all pairs in one request, wait for the job, read its results.

    Raises:
        RuntimeError: a pair has no annotation.
    """
    body = {"pairs": [pair.model_dump() for pair in pairs], "direction": direction}
    started = time.perf_counter()
    with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
        answer = client.post("/annotate", json=body, headers={"Prefer": "respond-async"}).raise_for_status()
        job = answer.headers["Location"]
        while client.get(job, params={"wait": 60}).raise_for_status().json()["status"] == "in_progress":
            pass
        rows = client.get(f"{job}/results").raise_for_status().text.splitlines()
    seconds = time.perf_counter() - started
    if len(rows) != len(pairs) or any("error" in json.loads(row)["annotation"] for row in rows):
        raise RuntimeError("the service did not annotate every pair")
    return Answered(seconds)


def singles(url: str, pairs: Sequence[Pair], direction: str, clients: int) -> Answered:
    """Let so many clients, each with a connection of its own, post one pair after the other until none is left."""
    answered = Answered(0.0)
    bodies = iter([_body(pair, direction) for pair in pairs])

    async def one(client: httpx.AsyncClient) -> None:
        for body in bodies:
            started = time.perf_counter()
            while not await _post(client, body):
                answered.refused += 1
            answered.latencies.append(time.perf_counter() - started)

    async def everyone() -> None:
        async with AsyncExitStack() as open_:
            verified = httpx.create_ssl_context()  # slow to make, and never used
            connect = partial(httpx.AsyncClient, base_url=url, timeout=_TIMEOUT, trust_env=False, verify=verified)
            own = [await open_.enter_async_context(connect()) for _ in range(clients)]
            started = time.perf_counter()
            await asyncio.gather(*(one(client) for client in own))
            answered.seconds = time.perf_counter() - started

    asyncio.run(everyone())
    return answered


def alone(client: httpx.Client, pair: Pair, direction: str) -> float:
    """Seconds of one request with one pair, nobody else being there."""
    body = _body(pair, direction)
    started = time.perf_counter()
    _check(client.post("/annotate", content=body, headers=_JSON))
    return time.perf_counter() - started


_JSON = {"Content-Type": "application/json"}


def _body(pair: Pair, direction: str) -> bytes:
    return json.dumps({"pairs": [pair.model_dump()], "direction": direction}).encode()


async def _post(client: httpx.AsyncClient, body: bytes) -> bool:
    """Whether the pair was annotated; if the service is full, after the wait that it asks for."""
    answer = await client.post("/annotate", content=body, headers=_JSON)
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        return False
    _check(answer)
    return True


def _check(answer: httpx.Response) -> None:
    if answer.raise_for_status().status_code != httpx.codes.OK:
        raise RuntimeError(f"the service answered a single pair with {answer.status_code}")

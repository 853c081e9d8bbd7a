"""What every route needs, built once per application."""

import time
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request
from redis import Redis
from starlette.concurrency import run_in_threadpool

from app.errors import NotFound, Unavailable
from app.jobs import roster
from app.jobs.follow import Completions
from app.jobs.roster import WorkerState
from app.jobs.store import JobStore
from app.metrics import Metrics
from app.schemas.directions import DirectionCard
from app.settings import Settings

_ROSTER_SECONDS = 0.5


@dataclass
class Service:
    """The queue, the jobs in it and who works on them, as the routes see them."""

    settings: Settings
    redis: Redis
    metrics: Metrics
    completions: Completions = field(default_factory=Completions)
    _workers: list[WorkerState] = field(default_factory=list)
    _looked: float = -_ROSTER_SECONDS

    @property
    def jobs(self) -> JobStore:
        """The jobs."""
        return JobStore(self.redis)

    async def workers(self) -> list[WorkerState]:
        """Live workers, as of at most half a second ago."""
        now = time.monotonic()
        if now - self._looked >= _ROSTER_SECONDS:
            self._workers = await run_in_threadpool(roster.live, self.redis)
            self._looked = now
        return self._workers

    async def directions(self) -> dict[str, DirectionCard]:
        """Directions that can be used now, by id.

        Raises:
            Unavailable: there is no worker at all.
        """
        workers = await self.workers()
        if not workers:
            raise Unavailable("no worker is ready; /readyz says why", headers={"Retry-After": "5"})
        return roster.directions(workers)

    async def direction(self, direction_id: str) -> DirectionCard:
        """A direction that can be used now.

        Raises:
            NotFound: no worker holds it.
        """
        held = await self.directions()
        if direction_id not in held:
            raise NotFound("no worker holds this direction; GET /directions lists those there are")
        return held[direction_id]


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceDep = Annotated[Service, Depends(_service)]

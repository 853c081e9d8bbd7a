"""What every route needs, built once per application."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, cast

from fastapi import Depends, Request
from redis import Redis
from starlette.concurrency import run_in_threadpool

from app.alignments import Alignments
from app.artifacts import Artifacts
from app.errors import NotFound, Unavailable
from app.files import Files
from app.jobs import keys, load, roster
from app.jobs.collect import Answers
from app.jobs.follow import Completions
from app.jobs.roster import HeldBank, WorkerState
from app.jobs.store import JobStore
from app.jobs.submission import QueueFull, Submission
from app.metrics import Metrics
from app.registry import Registry
from app.rewards import RewardModels
from app.ruleadapters import RuleAdapters
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.schemas.annotate import DEFAULT
from app.schemas.directions import DirectionCard
from app.settings import Settings

_ROSTER_SECONDS = 0.5
_MEMORY_SECONDS = 1.0
_CHECKS_AT_ONCE = 4


@dataclass
class Service:
    """The queue, the jobs in it and who works on them, as the routes see them.

    Attributes:
        checks: held while an upload is checked, which keeps a thread and a core busy, so that others find some.
    """

    settings: Settings
    redis: Redis
    metrics: Metrics
    completions: Completions = field(default_factory=Completions)
    checks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_CHECKS_AT_ONCE))
    _workers: list[WorkerState] = field(default_factory=list)
    _looked: float = -_ROSTER_SECONDS
    _defaults: dict[str, str] = field(default_factory=dict)
    _asked: float = -_ROSTER_SECONDS
    _memory_is_short: bool = False
    _weighed: float = -_MEMORY_SECONDS

    @cached_property
    def artifacts(self) -> Artifacts:
        """The artifact store."""
        return Artifacts(self.settings.artifacts_url)

    @cached_property
    def registry(self) -> Registry:
        """The directions in it."""
        return Registry(self.artifacts)

    @cached_property
    def rule_pools(self) -> RulePools:
        """The rule pools in it."""
        return RulePools(self.artifacts)

    @cached_property
    def rule_banks(self) -> RuleBanks:
        """The banks of rule probes in it."""
        return RuleBanks(self.artifacts)

    @cached_property
    def rule_adapters(self) -> RuleAdapters:
        """The rule adapters in it."""
        return RuleAdapters(self.artifacts)

    @cached_property
    def alignments(self) -> Alignments:
        """The alignments in it."""
        return Alignments(self.artifacts)

    @cached_property
    def reward_models(self) -> RewardModels:
        """The reward models in it."""
        return RewardModels(self.artifacts)

    @cached_property
    def files(self) -> Files:
        """The uploaded files."""
        return Files(self.artifacts, self.redis, self.settings)

    @property
    def jobs(self) -> JobStore:
        """The jobs."""
        return JobStore(self.redis)

    def submit(self, work: Submission, job_id: str) -> None:
        """Make a job of work where not too much waits already: of small requests as much as is answered soon.

        Raises:
            QueueFull: too much waits, or the queue's server is nearly out of memory.
        """
        config, now = self.settings, time.monotonic()
        if now - self._weighed >= _MEMORY_SECONDS:
            self._memory_is_short, self._weighed = load.memory_is_short(self.redis), now
        if self._memory_is_short:
            raise QueueFull(load.MOST_SECONDS)
        if work.queue != keys.ANNOTATE:
            limit = config.bulk_queue_tokens if work.queue == keys.BULK else config.train_queue_tokens
            self.jobs.submit(work, limit=limit, job_id=job_id)
            return
        try:
            self.jobs.submit(work, limit=config.queue_tokens, job_id=job_id)
        except QueueFull:
            limit = int(load.pace(self.redis, work.queue) * config.queue_seconds)
            if limit <= config.queue_tokens:
                raise
            self.jobs.submit(work, limit=limit, job_id=job_id)

    def answers(self, job_id: str) -> Answers:
        """The answers of a job."""
        return Answers(self.jobs, self.artifacts, job_id)

    async def workers(self) -> list[WorkerState]:
        """Live workers, as of at most half a second ago."""
        now = time.monotonic()
        if now - self._looked >= _ROSTER_SECONDS:
            self._workers = await run_in_threadpool(roster.live, self.redis)
            self._looked = now
        return self._workers

    async def banks(self, *, anew: bool = False) -> list[HeldBank]:
        """Banks of rule probes that can be used now, calibrated ones first, then the newest.

        Args:
            anew: look again, however short ago that was.
        """
        if anew:
            self._looked = -_ROSTER_SECONDS
        return roster.banks(await self.workers())

    async def directions(self) -> dict[str, DirectionCard]:
        """Directions that can be used now, by id.

        Raises:
            Unavailable: there is no worker at all.
        """
        workers = await self.workers()
        if not workers:
            raise Unavailable("no worker is ready; /readyz says why", headers={"Retry-After": "5"})
        return roster.directions(workers)

    async def default(self) -> str | None:
        """Id that `default` stands for on the annotator of the workers, as of at most half a second ago.

        None if nothing was ever chosen for it.
        """
        workers = await self.workers()
        now = time.monotonic()
        if now - self._asked >= _ROSTER_SECONDS:
            self._defaults = await run_in_threadpool(self.registry.defaults)
            self._asked = now
        known = self._defaults
        return next((known[w.model_revision] for w in workers if w.model_revision in known), None)

    async def choose_default(self, card: DirectionCard) -> None:
        """Let `default` stand for this direction on its annotator, at once for whoever asks here.

        That is the annotator of the workers that hold it; the card of one that reads a taught model names that.
        """
        holders = {worker.model_revision for worker in await self.workers() if card in worker.directions}
        for model_revision in holders or {card.model_revision}:
            await run_in_threadpool(self.registry.set_default, model_revision, card.id)
        self._asked = -_ROSTER_SECONDS

    async def direction(self, direction_id: str, pointer: str = "/direction") -> DirectionCard:
        """A direction that can be used now; `default` is the one that it stands for.

        Raises:
            NotFound: no worker holds it; `pointer` says which field asked for it.
        """
        wanted = await self.default() if direction_id == DEFAULT else direction_id
        held = await self.directions()
        if wanted not in held:
            self._looked = -_ROSTER_SECONDS  # it may be new: look again before saying no
            held = await self.directions()
        if wanted is None or wanted not in held:
            detail = "no worker holds this direction; GET /directions lists those there are"
            raise NotFound.at(pointer, "unknown_direction", detail)
        return held[wanted]


async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceDep = Annotated[Service, Depends(_service)]

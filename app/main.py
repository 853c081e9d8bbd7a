"""The whole application at a glance."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from app import __version__, errors
from app.access import Access
from app.auth.exposure import refuse_if_open
from app.auth.keys import KeyRing, Keys
from app.body import BodyLimit
from app.janitor import keep_sweeping
from app.metrics import Metrics
from app.routes import (
    alignments,
    annotate,
    directions,
    files,
    health,
    jobs,
    labelstudio,
    playground,
    rewarding,
    rewards,
    ruleadapters,
    rulebanks,
    rules,
    score,
    training,
)
from app.service import Service
from app.settings import Settings, settings
from app.webhooks.dispatch import Dispatch
from app.webhooks.outbox import Outbox
from app.webhooks.sending import Sender
from app.webhooks.signing import installation_secret

log = logging.getLogger("safemargin.api")


def create_app(config: Settings | None = None) -> FastAPI:
    """The API as an ASGI application.

    Args:
        config: settings; those of the environment where left out.

    Raises:
        OpenToEverybody: other machines could use it without a key, and no setting says that they may.
    """
    config = config or settings()
    refuse_if_open(config)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        redis = Redis.from_url(config.redis_url)
        app.state.service = Service(config, redis, metrics)
        service = app.state.service
        if config.auth:
            app.state.key_ring = KeyRing(Keys(service.artifacts))
        tasks = [
            asyncio.create_task(service.completions.listen(config.redis_url), name="listening for jobs that end"),
            asyncio.create_task(keep_sweeping(redis, service.artifacts), name="sweeping"),
            asyncio.create_task(_tell(service), name="sending webhooks"),
        ]
        for task in tasks:
            task.add_done_callback(_say_if_failed)
        try:
            yield
        finally:
            for task in tasks:
                await _end(task)
            redis.close()

    app = FastAPI(
        title="Safemargin",
        version=__version__,
        summary="How much safer is the chosen response?",
        lifespan=lifespan,
    )
    rooms = (
        annotate,
        score,
        files,
        jobs,
        directions,
        rules,
        rulebanks,
        ruleadapters,
        training,
        alignments,
        rewards,
        rewarding,
        labelstudio,
        health,
        playground,
    )
    for room in rooms:
        app.include_router(room.router)
    app.mount("/playground", playground.Assets(), name="playground")
    errors.install(app)
    app.add_middleware(BodyLimit, limit=config.max_body_bytes, streams={"/files": config.max_file_bytes})
    app.add_middleware(Access, metrics=metrics)
    return app


async def _tell(service: Service) -> None:
    """Make the webhooks' deliveries until cancelled."""
    config = service.settings
    async with AsyncRedis.from_url(config.redis_url) as redis:
        await Dispatch(
            outbox=Outbox(redis),
            jobs=service.jobs,
            sender=Sender(allow_private=config.webhook_private),
            secrets=lambda: config.webhook_secret or installation_secret(service.registry.artifacts),
            metrics=service.metrics,
        ).run()


def _say_if_failed(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.critical("%s has ended until the next start", task.get_name(), exc_info=error)


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel a task until it has ended: a cancellation that meets a connection being made can be lost there."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)

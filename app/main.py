"""The whole application at a glance."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis import Redis

from app import __version__, errors
from app.body import BodyLimit
from app.metrics import Metrics, RequestMetrics
from app.routes import annotate, directions, health, jobs, score
from app.service import Service
from app.settings import Settings, settings


def create_app(config: Settings | None = None) -> FastAPI:
    """The API as an ASGI application.

    Args:
        config: settings; those of the environment where left out.
    """
    config = config or settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        redis = Redis.from_url(config.redis_url)
        app.state.service = Service(config, redis, metrics)
        listener = asyncio.create_task(app.state.service.completions.listen(config.redis_url))
        try:
            yield
        finally:
            await _end(listener)
            redis.close()

    app = FastAPI(
        title="Safemargin",
        version=__version__,
        summary="How much safer is the chosen response?",
        lifespan=lifespan,
    )
    for room in (annotate, score, jobs, directions, health):
        app.include_router(room.router)
    errors.install(app)
    app.add_middleware(BodyLimit, limit=config.max_body_bytes)
    app.add_middleware(RequestMetrics, metrics=metrics)
    return app


async def _end(task: "asyncio.Task[None]") -> None:
    """Cancel a task until it has ended: a cancellation that meets a connection being made can be lost there."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)

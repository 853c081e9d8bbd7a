"""One process per device: loads the annotator, proves it, serves the queue, says so in its heartbeat."""

import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import torch
from redis import Redis
from redis.exceptions import RedisError

from app.jobs import roster
from app.jobs.roster import WorkerState
from app.jobs.store import JobStore
from app.settings import Settings, settings
from workers import tasks
from workers.annotate import PairAnnotator
from workers.batcher import Batcher
from workers.directions import store
from workers.directions.direction import SafetyDirection, check_fits
from workers.directions.errors import DirectionError
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.errors import EngineError
from workers.engine.forward import read
from workers.engine.malloc import keep_freed_memory
from workers.lanes import Lanes
from workers.metrics import WorkerMetrics
from workers.probe import probe

log = logging.getLogger("safemargin.worker")

EXIT_CONFIGURATION = 78
"""The worker cannot start however often it is restarted: the annotator is not there, say."""

_LANES = 8
_STALL_SECONDS = 300.0
_DRAIN_SECONDS = 30.0


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: stop.set())
    keep_freed_memory()
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // config.workers))
    try:
        annotator = load_annotator(config.model, config.home_folder, device=config.device, dtype=config.dtype)
        directions = load_directions(annotator, config.home_folder / "directions")
        probes = probe(annotator, directions)
    except EngineError as error:
        log.error("%s", error)
        return EXIT_CONFIGURATION
    return _serve(config, annotator, directions, probes, stop)


def load_directions(annotator: Annotator, own: Path) -> dict[str, SafetyDirection]:
    """Shipped directions and those in the folder `own`, as far as they were made for this annotator."""
    found: dict[str, SafetyDirection] = {}
    for direction_id, folder in store.folders([store.SHIPPED, own]).items():
        try:
            direction = store.load(folder)
            check_fits(
                direction,
                model=annotator.name,
                revision=annotator.revision,
                depth=annotator.depth,
                width=annotator.width,
            )
        except DirectionError as error:
            log.warning("not loaded: %s", error)
        else:
            found[direction_id] = direction
    return found


def _serve(
    config: Settings,
    annotator: Annotator,
    directions: dict[str, SafetyDirection],
    probes: dict[str, str],
    stop: threading.Event,
) -> int:
    metrics = WorkerMetrics()
    batcher = Batcher(lambda groups, sites: read(annotator, groups, sites), annotator.budget, metrics)
    batcher.start()
    redis = Redis.from_url(config.redis_url)
    pairs = PairAnnotator(annotator, directions, batcher, metrics)
    tasks.serve(tasks.Duty(JobStore(redis), pairs, config.result_seconds))
    state = WorkerState(
        name=f"{socket.gethostname()}.{os.getpid()}",
        model=annotator.name,
        model_revision=annotator.revision,
        device=str(annotator.device),
        dtype=annotator.dtype_name,
        metrics_port=metrics.serve(config.metrics_port),
        directions=[direction.card for direction in directions.values()],
        probes=probes,
    )
    lanes = Lanes(config.redis_url, state.name, _LANES)
    lanes.start()
    log.info("%s on %s in %s, directions: %s", state.model, state.device, state.dtype, ", ".join(directions) or "none")
    healthy = _beat(redis, state, batcher, stop)
    drained = lanes.stop(_DRAIN_SECONDS)
    _leave(redis, state.name)
    return 0 if healthy and drained else 1


def _beat(redis: Redis, state: WorkerState, batcher: Batcher, stop: threading.Event) -> bool:
    """Renew the heartbeat until told to stop; False if the forward stage died or stands still.

    A forward stage that stands still ends the process: whoever supervises it starts a fresh one.
    """
    while not stop.is_set():
        if not batcher.alive or batcher.batch_seconds() > _STALL_SECONDS:
            log.error("the forward stage died or stands still")
            return False
        try:
            roster.announce(redis, state)
        except RedisError as error:
            log.warning("heartbeat not delivered: %s", error)
        stop.wait(roster.HEARTBEAT_SECONDS)
    return True


def _leave(redis: Redis, name: str) -> None:
    try:
        roster.leave(redis, name)
    except RedisError as error:
        log.warning("not taken off the roster: %s", error)


if __name__ == "__main__":
    sys.exit(main())

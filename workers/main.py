"""One process per device: loads the annotator, proves it, serves the queue, says so in its heartbeat."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from app.jobs import custody, roster
from app.jobs.roster import WorkerState
from app.jobs.store import JobStore
from app.settings import Settings, settings
from workers import tasks
from workers.annotate import PairAnnotator
from workers.batcher import Batcher
from workers.directions import store
from workers.directions.direction import SafetyDirection, check_fits
from workers.directions.errors import DirectionError
from workers.engine import process
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.errors import EngineError
from workers.engine.forward import read
from workers.lanes import Lanes
from workers.metrics import WorkerMetrics
from workers.probe import probe

log = logging.getLogger("safemargin.worker")

EXIT_CONFIGURATION = 78
"""The worker cannot start however often it is restarted: the annotator is not there, say."""

_LANES = 4
_STALL_SECONDS = 300.0
_DRAIN_SECONDS = 30.0


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: stop.set())
    passes = process.set_up(config.threads or max(1, process.cores() // config.workers))
    try:
        annotator = load_annotator(
            config.model, config.home_folder, device=config.device, dtype=config.dtype, passes=passes
        )
        directions = load_directions(annotator, config.home_folder / "directions")
        probes = probe(annotator, directions)
    except (EngineError, NotImplementedError) as error:
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
                template=annotator.template.digest,
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
    redis = Redis.from_url(config.redis_url)
    pairs = PairAnnotator(annotator, directions, batcher, metrics)
    state = WorkerState(
        name=f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(2)}",
        model=annotator.name,
        model_revision=annotator.revision,
        device=str(annotator.device),
        dtype=annotator.dtype_name,
        metrics_port=metrics.serve(config.metrics_port),
        directions=[direction.card for direction in directions.values()],
        probes=probes,
    )
    tasks.serve(tasks.Duty(state.name, JobStore(redis), pairs))
    lanes = Lanes(config.redis_url, state.name, _LANES)
    keeper = threading.Thread(target=_keep, args=(redis, state, lanes, batcher, stop), name="keeper", daemon=True)
    lanes.start()
    keeper.start()
    log.info("%s on %s in %s, directions: %s", state.model, state.device, state.dtype, ", ".join(directions) or "none")
    with process.side_by_side(annotator.passes, "forward") as stage:
        for _ in range(annotator.passes):
            stage.submit(batcher.run).add_done_callback(_end_if_failed)
    keeper.join()
    return 0


def _end_if_failed(forward: "Future[None]") -> None:
    """A forward thread that fails takes the process with it: a supervisor starts a fresh one."""
    if error := forward.exception():
        log.error("a forward thread failed: %s", type(error).__name__)
        os._exit(1)


def _keep(redis: Redis, state: WorkerState, lanes: Lanes, batcher: Batcher, stop: threading.Event) -> None:
    """Renew the heartbeat until told to stop, then let the lanes finish and close the forward stage.

    A forward pass that stands still, or lanes that do not finish, end the process: its supervisor starts a fresh one.
    """
    while not stop.is_set():
        if batcher.batch_seconds() > _STALL_SECONDS:
            log.error("the forward pass has stood still for %.0f s", batcher.batch_seconds())
            os._exit(1)
        try:
            roster.announce(redis, state)
            if inherited := custody.inherit(redis, state.name):
                log.warning("queued %d chunks of dead workers again", inherited)
        except RedisError as error:
            log.warning("heartbeat not delivered: %s", error)
        if not lanes.alive:
            log.error("a lane died")
            os._exit(1)
        stop.wait(roster.HEARTBEAT_SECONDS)
    if not lanes.stop(_DRAIN_SECONDS):
        log.error("chunks in hand were not finished within %.0f s", _DRAIN_SECONDS)
        os._exit(1)
    _leave(redis, state.name)
    batcher.close()


def _leave(redis: Redis, name: str) -> None:
    try:
        roster.leave(redis, name)
    except RedisError as error:
        log.warning("not taken off the roster: %s", error)


if __name__ == "__main__":
    sys.exit(main())

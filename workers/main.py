"""One process per device: loads the annotator, proves it, serves the queue, says so in its heartbeat."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from app.artifacts import Artifacts, StoreUnreachable
from app.jobs import custody, keys, roster
from app.jobs.roster import HeldBank, WorkerState, address_towards
from app.jobs.store import JobStore
from app.log import set_up as set_up_log
from app.registry import Registry
from app.rulebanks import RuleBanks
from app.rulepools import RulePools
from app.settings import Settings, settings
from workers import tasks
from workers.annotate import PairAnnotator
from workers.batcher import Batcher
from workers.configured import configured_annotator
from workers.directions.errors import DirectionError
from workers.engine import process
from workers.engine.annotator import Annotator
from workers.engine.crew import Read, reader
from workers.engine.errors import DeviceLost, EngineError
from workers.lanes import Lanes
from workers.metrics import LOOPBACK, WorkerMetrics
from workers.orders.rewards import Base
from workers.probe import probe
from workers.registry import Holdings, publish_shipped
from workers.rules.bank import publish_shipped_banks
from workers.rules.errors import RuleError
from workers.rules.pool import publish_shipped_pool
from workers.score_cache import ScoreCache
from workers.training import Trainer

log = logging.getLogger("safemargin.worker")

EXIT_CONFIGURATION = 78
"""The worker cannot start however often it is restarted: the annotator is not there, say."""

EXIT_STORE = 1
"""The artifact store does not answer: a supervisor should try again."""

_LANES = {keys.ANNOTATE: 24, keys.BULK: 8, keys.TRAIN: 1}
_STALL_SECONDS = 300.0
_DRAIN_SECONDS = 30.0


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    set_up_log()
    config = settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: stop.set())
    try:
        annotator = configured_annotator(config, config.workers)
        probe(annotator)
        artifacts = Artifacts(config.artifacts_url)
        publish_shipped(Registry(artifacts), annotator)
        publish_shipped_pool(RulePools(artifacts))
        publish_shipped_banks(RuleBanks(artifacts), annotator)
        holdings = Holdings.of(artifacts, annotator)
        holdings.refresh()
    except (EngineError, DirectionError, RuleError, NotImplementedError, ValidationError) as error:
        log.error("%s", error)
        return EXIT_CONFIGURATION
    except StoreUnreachable as error:
        log.error("%s", error)
        return EXIT_STORE
    with reader(annotator) as read:
        return _serve(config, annotator, holdings, read, stop)


def _serve(config: Settings, annotator: Annotator, holdings: Holdings, read: Read, stop: threading.Event) -> int:
    metrics = WorkerMetrics()
    metrics.watch(annotator.budget)
    metrics.watch_devices(annotator.devices)
    in_turn = annotator.device.type == "cuda"
    batcher = Batcher(read, annotator.budget, metrics, passes=annotator.passes, in_turn=in_turn)
    redis = Redis.from_url(config.redis_url)
    name = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(2)}"
    heard, port = metrics.heartbeat.set_to_current_time, metrics.serve(config.metrics_port)
    presence = Presence(redis, name, annotator, holdings, port, bool(config.metrics_port), heard)
    base = Base(config.model, config.home_folder, config.device)
    trainer = Trainer(annotator, holdings, presence.announce, stop, config.home_folder / "cache", base)
    cache = ScoreCache(redis, annotator, config.score_cache_entries) if config.score_cache_entries else None
    pairs = PairAnnotator(annotator, holdings, batcher, metrics, cache)
    tasks.serve(tasks.Duty(name, JobStore(redis), holdings.directions.registry.artifacts, pairs, trainer))
    lanes = Lanes(config.redis_url, name, _LANES)
    keeper = threading.Thread(target=_keep, args=(presence, lanes, batcher, stop), name="keeper", daemon=True)
    librarian = threading.Thread(target=_look_after, args=(holdings, stop), name="librarian", daemon=True)
    presence.announce()  # before anything is in hand, so that others would find it there
    lanes.start()
    keeper.start()
    librarian.start()
    held = ", ".join(holdings.directions.all()) or "none"
    log.info("%s on %s in %s, directions: %s", annotator.name, annotator.device, annotator.dtype_name, held)
    with process.side_by_side(annotator.passes, "forward") as stage:
        for _ in range(annotator.passes):
            stage.submit(batcher.run).add_done_callback(_end_if_failed)
    keeper.join()
    return 0


@dataclass(frozen=True)
class Presence:
    """What others see of this worker.

    Attributes:
        redis: where they look.
        name: unique name of the process.
        annotator: what it loaded and has proven (`probe`).
        holdings: what it holds.
        metrics_port: where its metrics are.
        reachable: whether other machines reach them there.
        heard: called whenever the queue has heard of it.
    """

    redis: Redis
    name: str
    annotator: Annotator
    holdings: Holdings
    metrics_port: int
    reachable: bool = False
    heard: Callable[[], None] = lambda: None
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def announce(self) -> None:
        """Renew the heartbeat; any thread may, and none puts an older state over a newer one.

        While the queue is away, that is for the next time.
        """
        try:
            with self._one_at_a_time:
                self._announce()
            self.heard()
        except (RedisError, OSError) as error:  # the latter where the name of the queue's host is not known
            log.warning("heartbeat not delivered: %s", error)

    def _announce(self) -> None:
        cards = [direction.card for direction in self.holdings.directions.all().values()]
        banks = [bank.card for bank in self.holdings.banks.all().values()]
        state = WorkerState(
            name=self.name,
            model=self.annotator.name,
            model_revision=self.annotator.revision,
            device=str(self.annotator.device),
            dtype=self.annotator.dtype_name,
            metrics_port=self.metrics_port,
            address=self._address,
            directions=cards,
            probes={card.id: card.digest for card in cards},
            banks=[HeldBank.model_validate(card, from_attributes=True) for card in banks],
        )
        roster.announce(self.redis, state)

    @cached_property
    def _address(self) -> str:
        """Found once: names that are slow to resolve must not hold up the heartbeat."""
        return address_towards(self.redis) if self.reachable else LOOPBACK

    def leave(self) -> None:
        """Take this worker off the roster."""
        try:
            roster.leave(self.redis, self.name)
        except RedisError as error:
            log.warning("not taken off the roster: %s", error)


def _end_if_failed(forward: "Future[None]") -> None:
    """A forward thread that fails takes the process with it: a supervisor starts a fresh one."""
    if error := forward.exception():
        log.error("a forward thread failed: %s", error if isinstance(error, DeviceLost) else type(error).__name__)
        os._exit(1)


def _keep(presence: Presence, lanes: Lanes, batcher: Batcher, stop: threading.Event) -> None:
    """Renew the heartbeat until told to stop, then let the lanes finish and close the forward stage.

    A forward pass that stands still, or lanes that do not finish, end the process: its supervisor starts a fresh one.
    """
    while not stop.is_set():
        if batcher.batch_seconds() > _STALL_SECONDS:
            log.error("the forward pass has stood still for %.0f s", batcher.batch_seconds())
            os._exit(1)
        presence.announce()
        try:
            if inherited := custody.inherit(presence.redis):
                log.warning("gave back %d chunks of dead workers", inherited)
            custody.wake_idle(presence.redis)
        except RedisError as error:
            log.warning("no look at dead workers: %s", error)
        if not lanes.alive:
            log.error("a lane died")
            os._exit(1)
        stop.wait(roster.HEARTBEAT_SECONDS)
    if not _drained(presence, lanes):
        log.error("chunks in hand were not finished within %.0f s", _DRAIN_SECONDS)
        os._exit(1)
    presence.leave()
    batcher.close()


def _drained(presence: Presence, lanes: Lanes) -> bool:
    """Let the lanes finish; False if that takes too long.

    The heartbeat goes on meanwhile, or else others would take this worker for dead, and what it has in hand from it.
    """
    end = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < end:
        presence.announce()
        if lanes.stop(roster.HEARTBEAT_SECONDS):
            return True
    return False


def _look_after(holdings: Holdings, stop: threading.Event) -> None:
    """Keep up with the store; apart from the heartbeat, which must not wait for a slow one."""
    while not stop.wait(roster.HEARTBEAT_SECONDS):
        _look_at_store(holdings)


def _look_at_store(holdings: Holdings) -> None:
    """Hold what the store holds; while it is away, whatever was held before."""
    try:
        for changed in holdings.refresh():
            log.info("%s", changed)
    except StoreUnreachable as error:
        log.warning("%s", error)
    except Exception as error:  # a file nobody foresaw must not end the heartbeat
        log.error("holdings not refreshed: %s", type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())

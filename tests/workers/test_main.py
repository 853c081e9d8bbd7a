"""The worker process: what it says of itself, and what it does while store or queue are away."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from app.artifacts import Artifacts
from app.jobs import roster
from app.jobs.roster import WorkerState
from app.registry import Registry
from app.settings import Settings
from tests.conftest import publish, random_direction
from workers import main
from workers.batcher import Batcher
from workers.engine import process
from workers.engine.annotator import Annotator
from workers.engine.errors import DeviceLost
from workers.engine.forward import read
from workers.lanes import Lanes
from workers.main import EXIT_CONFIGURATION, Presence
from workers.metrics import WorkerMetrics
from workers.registry import Holdings


@pytest.fixture
def held(annotator: Annotator, tmp_path: Path) -> Holdings:
    return Holdings.of(Artifacts(str(tmp_path / "store")), annotator)


@pytest.fixture
def presence(annotator: Annotator, held: Holdings) -> Iterator[Presence]:
    """A worker whose queue is away."""
    with Redis.from_url("unix:///nowhere/queue.sock", retry=None) as redis:
        yield Presence(redis, "this", annotator, held, 4711)


def test_a_heartbeat_names_everything_that_is_held_as_proven(
    presence: Presence, held: Holdings, annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[WorkerState] = []
    monkeypatch.setattr(roster, "announce", lambda _redis, state: said.append(state))
    one, other = random_direction(annotator, "one", 1), random_direction(annotator, "other", 2)
    publish(held.directions.registry, one, other)
    held.refresh()
    presence.announce()
    (state,) = said
    assert (state.name, state.model, state.model_revision) == ("this", "tiny", "sha256:tiny")
    assert (state.device, state.dtype, state.metrics_port) == ("cpu", "float32", 4711)
    assert {card.id: card.digest for card in state.directions} == {"one": one.card.digest, "other": other.card.digest}
    assert state.ready_for("one")
    assert state.ready_for("other")


def test_a_queue_whose_host_has_no_address_yet_is_one_that_is_away(
    presence: Presence, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(_redis: Redis) -> str:
        raise socket.gaierror("Name or service not known")

    said: list[WorkerState] = []
    monkeypatch.setattr(roster, "announce", lambda _redis, state: said.append(state))
    elsewhere = replace(presence, reachable=True)
    with monkeypatch.context() as patch:
        patch.setattr(main, "address_towards", unknown)
        elsewhere.announce()
    assert said == []
    assert "heartbeat not delivered" in caplog.text
    monkeypatch.setattr(main, "address_towards", lambda _redis: "10.0.0.2")
    elsewhere.announce()
    assert [state.metrics_at for state in said] == ["10.0.0.2:4711"]


def test_a_worker_that_finishes_what_it_has_in_hand_is_no_dead_one(
    presence: Presence, annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(roster, "announce", lambda _redis, _state: said.append("alive"))
    monkeypatch.setattr(roster, "leave", lambda _redis, _name: said.append("gone"))
    busy = iter([False, False, True])
    lanes = Lanes("unix:///nowhere/queue.sock", "this", {})
    monkeypatch.setattr(lanes, "stop", lambda seconds: seconds < roster.FRESH_SECONDS and next(busy))
    batcher = Batcher(partial(read, annotator), annotator.budget, WorkerMetrics())
    stop = threading.Event()
    stop.set()
    main._keep(presence, lanes, batcher, stop)
    assert said == ["alive", "alive", "alive", "gone"]


def test_a_heartbeat_that_cannot_be_delivered_ends_nothing(
    presence: Presence, caplog: pytest.LogCaptureFixture
) -> None:
    presence.announce()
    presence.leave()
    told = [message.split(":")[0] for message in caplog.messages]
    assert told == ["heartbeat not delivered", "not taken off the roster"]


def test_while_the_store_is_away_what_was_held_is_held_on(
    held: Holdings, annotator: Annotator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(held.directions.registry, random_direction(annotator, "d"))
    main._look_at_store(held)

    def away(_registry: Registry) -> dict[str, str]:
        raise PermissionError("s3://bucket/secret")

    monkeypatch.setattr(Registry, "current", away)
    main._look_at_store(held)
    assert set(held.directions.all()) == {"d"}
    assert caplog.messages == ["holdings not refreshed: PermissionError"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            DeviceLost("AcceleratorError: CUDA error: an illegal memory access"),
            "AcceleratorError: CUDA error: an illegal",
        ),
        (KeyError("a pair's text"), "KeyError"),
    ],
)
def test_a_forward_thread_that_fails_ends_the_process_with_a_line_of_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException, told: str
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)

    def fail() -> None:
        raise error

    with ThreadPoolExecutor(1) as stage:
        stage.submit(fail).add_done_callback(main._end_if_failed)
    assert statuses == [1]
    assert caplog.messages[0].startswith(f"a forward thread failed: {told}")
    assert "text" not in caplog.text


def test_an_annotator_that_is_not_there_ends_the_process_with_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(signal, "signal", lambda _number, _handler: None)
    monkeypatch.setattr(process, "set_up", lambda _threads: 1)
    config = Settings().model_copy(update={"model": "/nowhere/model", "home": tmp_path})
    monkeypatch.setattr(main, "settings", lambda: config)
    assert main.main() == EXIT_CONFIGURATION
    assert "/nowhere/model" in caplog.text

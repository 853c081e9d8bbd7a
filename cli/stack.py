"""The whole service on one machine: queue, workers and API as child processes that live and die together."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import orjson

from app.settings import Settings
from cli import embedded

API = ("-m", "app.serve")
WORKER = ("-m", "workers.main")
"""What Python is told to be the API or a worker, here and in containers."""

_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 40.0
_READY_SECONDS = 600.0
_RESTARTS = 5
_STABLE_SECONDS = 60.0
_EXIT_CONFIGURATION = 78
_POLL_SECONDS = 0.1


class StackFailed(Exception):
    """A part of the service cannot start or has died for good."""


@dataclass
class _Child:
    name: str
    command: list[str]
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)
    restarts: int = 0


class Stack:
    """Starts queue, workers and API; leaving the context stops every one of them.

    Children run in sessions of their own, so that Ctrl-C reaches this process alone and the order of stopping is ours:
    API first, then workers, then the queue. On Linux they die with this process even if it is killed.

    Args:
        config: settings; `REDIS_URL` in the environment means that no queue is started.
        quiet: whether children's logs go to files in the stack's folder instead of this terminal.
        durable: whether the queue lives on in the home, for the next stack on the same port.
    """

    def __init__(self, config: Settings, *, quiet: bool = False, durable: bool = False) -> None:
        self._config = config
        self._quiet = quiet
        self._durable = durable and config.port > 0
        self._children: list[_Child] = []
        self._environment = dict(os.environ)
        self.folder = Path(tempfile.mkdtemp(prefix="safemargin-"))
        self.port = config.port or _free_port(config.host)
        self.url = f"http://{_reachable(config.host)}:{self.port}"

    def __enter__(self) -> Self:
        """Start everything; does not wait until it is ready."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def wait_until_ready(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until /readyz is green; False if `stopped` says so first.

        Raises:
            StackFailed: a part died, or it takes too long.
        """
        deadline = time.monotonic() + _READY_SECONDS
        with httpx.Client(timeout=2, trust_env=False) as client:
            while time.monotonic() < deadline:
                if stopped():
                    return False
                self.supervise()
                answer = _look(client, self.url)
                if answer is not None and answer.status_code == httpx.codes.OK:
                    return True
                if answer is not None and any(e.get("code") == "no_direction" for e in answer.json()["errors"]):
                    raise StackFailed(answer.json()["errors"][0]["detail"])
                time.sleep(_POLL_SECONDS)
        raise StackFailed(f"not ready after {_READY_SECONDS:.0f} s")

    def supervise(self) -> None:
        """Start parts again that died; what they had in hand is in the queue's log.

        Raises:
            StackFailed: one cannot live.
        """
        for child in self._children:
            status = child.process.poll()
            if status is None:
                continue
            if time.monotonic() - child.started > _STABLE_SECONDS:
                child.restarts = 0
            # Who was killed may well live on; who gives up by itself again and again will not.
            if status == _EXIT_CONFIGURATION or (status > 0 and child.restarts >= _RESTARTS):
                raise StackFailed(f"{child.name} ended with status {status}{self._last_words(child.name)}")
            child.restarts += 1
            child.started = time.monotonic()
            child.process = self._spawn(child.name, child.command)

    def stop(self) -> None:
        """Stop every process, last started first, and remove the stack's folder."""
        for child in reversed(self._children):
            if child.process.poll() is None:
                child.process.terminate()
            try:
                child.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pids(self) -> dict[str, int]:
        """Process id of every part by name."""
        return {child.name: child.process.pid for child in self._children}

    def _start(self) -> None:
        _refuse_taken(self._config.host, self.port)
        if "REDIS_URL" not in os.environ and "SAFEMARGIN_REDIS_URL" not in os.environ:
            data = self._config.home_folder / f"queue-{self.port}" if self._durable else self.folder
            data.mkdir(parents=True, exist_ok=True)
            self._add("queue", embedded.command(self.folder, data))
            _await_socket(embedded.socket_path(self.folder), self._children[-1].process)
            self._environment["REDIS_URL"] = embedded.url(self.folder)
        for number in range(self._config.workers):
            self._add(f"worker-{number}", [sys.executable, *WORKER])
        self._environment |= {"SAFEMARGIN_HOST": self._config.host, "PORT": str(self.port)}
        self._add("api", [sys.executable, *API])

    def _add(self, name: str, command: list[str]) -> None:
        self._children.append(_Child(name, command, self._spawn(name, command)))

    def _spawn(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        log = (self.folder / f"{name}.log").open("ab") if self._quiet else None
        try:
            return subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - the launcher has no threads
            )
        finally:
            if log is not None:
                log.close()

    def _last_words(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        lines = path.read_text(errors="replace").strip().splitlines()[-3:] if path.exists() else []
        return ": " + " | ".join(map(_message, lines)) if lines else ""


def _message(line: str) -> str:
    """What a line of a log says to people."""
    try:
        return str(orjson.loads(line)["message"])
    except (ValueError, TypeError, KeyError):
        return line


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _await_socket(path: Path, process: "subprocess.Popen[bytes]") -> None:
    while not path.exists():
        if process.poll() is not None:
            raise StackFailed(f"the embedded queue ended with status {process.returncode}")
        time.sleep(0.01)


def _look(client: httpx.Client, url: str) -> httpx.Response | None:
    """What /readyz says; None while nobody answers."""
    try:
        return client.get(f"{url}/readyz")
    except httpx.TransportError:
        return None


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackFailed(f"{host}:{port} is taken; PORT=… chooses another port ({error.strerror})") from error

"""What a worker counts, in Prometheus' terms."""

from collections.abc import Sequence
from functools import partial

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from app.memory import available_bytes, resident_bytes
from app.schemas.annotate import Annotation, FailedAnnotation, Margin, Provenance
from app.schemas.chunk import ChunkAnswer
from workers.engine.memory import Budget

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG_SECONDS = (*_SECONDS, 60, 300, 1800, 7200)
_FILL = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5)
_MARGINS = (-8, -4, -2, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 2, 4, 8)
_MOST_DIRECTIONS = 32
_OTHER = "other"
HOST = "host"
LOOPBACK = "127.0.0.1"


class WorkerMetrics:
    """A worker's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._directions: set[str] = set()
        self.tokens = self._counter("forward_tokens", "Tokens computed.")
        self.forward_seconds = self._histogram("forward_seconds", "Time of one batch.", _SECONDS)
        self.idle_seconds = self._counter("forward_idle_seconds", "Time that passes waited for work.")
        self.batch_fill = self._histogram("batch_fill_ratio", "Tokens of a batch over its budget.", _FILL)
        self.batch_wait = self._histogram(
            "batch_wait_seconds", "How long the first of a batch's groups waited for it.", _SECONDS
        )
        self.budget = self._gauge("batch_budget_tokens", "Tokens that a batch may hold at present.")
        self.short = self._counter("out_of_memory", "Passes that the device's memory was too small for.")
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "From a job's submission until its first chunk is taken.", _LONG_SECONDS, "queue"
        )
        self.tokenise = self._histogram("tokenise_seconds", "Time to tokenise a chunk.", _SECONDS)
        self.store = self._histogram("store_seconds", "Time to keep the answer to a chunk.", _SECONDS)
        self.answered_tokens = self._counter("answered_tokens", "Tokens of what was answered, estimated as what waits.")
        self.pairs = self._counter("pairs_annotated", "Pairs answered.", "outcome", ("annotated", "refused"))
        self.errors = self._counter("pair_errors", "Pairs that could not be annotated, by reason.", "reason")
        self.cached = self._counter("score_cache", "Items looked up in the score cache.", "outcome", ("hit", "miss"))
        self.margins = self._histogram("margin", "Margins, in log-odds where calibrated.", _MARGINS, "direction")
        self.conflicts = self._counter("label_conflicts", "Margins below zero.", "direction")
        self.heartbeat = self._gauge("heartbeat_timestamp_seconds", "When the queue last heard of this worker.")
        self.memory = self._gauge("memory_bytes", "Memory taken, of the host or of a device.", "place")
        self.memory_limit = self._gauge("memory_limit_bytes", "Memory there is, of the host or of a device.", "place")
        self.memory.labels(HOST).set_function(resident_bytes)
        self.memory_limit.labels(HOST).set_function(available_bytes)

    def batch(self, tokens: int, budget: int, seconds: float, waited: float) -> None:
        """Count one forward pass."""
        self.tokens.inc(tokens)
        self.forward_seconds.observe(seconds)
        self.batch_fill.observe(tokens / budget)
        self.batch_wait.observe(waited)

    def answered(self, answer: ChunkAnswer, tokens: int) -> None:
        """Count what a chunk of so many estimated tokens was answered."""
        self.answered_tokens.inc(tokens)
        done, failed = answer.counts()
        alone = _read_by(answer.provenance)
        self.pairs.labels("annotated").inc(done)
        self.pairs.labels("refused").inc(failed)
        for entry in answer.entries:
            if isinstance(entry, FailedAnnotation):
                self.errors.labels(entry.error.code).inc()
            elif isinstance(entry, Annotation):
                for direction, own in (entry.directions or {alone: entry}).items():
                    self._margin(direction, own)

    def watch(self, budget: Budget) -> None:
        """Tell from now on how large this budget is and how often memory did not suffice."""
        self.budget.set_function(lambda: budget.tokens)
        budget.when_short = self.short.inc

    def watch_devices(self, devices: Sequence[torch.device]) -> None:
        """Tell from now on how much memory of these devices is taken, where it is not the host's."""
        for device in devices:
            if device.type == "cuda":
                self.memory.labels(str(device)).set_function(partial(_taken_bytes, device))
                self.memory_limit.labels(str(device)).set(torch.cuda.mem_get_info(device)[1])

    def serve(self, port: int) -> int:
        """Serve /metrics on `port`, or on a free one for 0; returns which."""
        server, _thread = start_http_server(port, addr=LOOPBACK if port == 0 else "0.0.0.0", registry=self.registry)
        return int(server.server_port)

    def _margin(self, direction: str, margin: Margin) -> None:
        """Count a margin; directions beyond the first few share a name, as users may make any number of them."""
        if direction not in self._directions:
            if len(self._directions) >= _MOST_DIRECTIONS:
                direction = _OTHER
            self._directions.add(direction)
        self.margins.labels(direction).observe(margin.margin)
        self.conflicts.labels(direction).inc(margin.label_conflict)

    def _counter(self, name: str, meaning: str, label: str | None = None, values: Sequence[str] = ()) -> Counter:
        """A counter, of which those values of its label are there from the start."""
        made = Counter(f"safemargin_{name}_total", meaning, [label] if label else [], registry=self.registry)
        for value in values:
            made.labels(value)
        return made

    def _gauge(self, name: str, meaning: str, label: str | None = None) -> Gauge:
        return Gauge(f"safemargin_{name}", meaning, [label] if label else [], registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], label: str | None = None) -> Histogram:
        labels = [label] if label else []
        return Histogram(f"safemargin_{name}", meaning, labels, buckets=buckets, registry=self.registry)


def _read_by(provenance: Provenance) -> str:
    """What a margin is told by: a direction, the rules, a taught model or a reward model."""
    if provenance.method in {"margin", "rules"}:
        return provenance.direction or provenance.method
    asked = provenance.alignment if provenance.method == "rahf" else provenance.reward_model
    return f"{provenance.method}:{asked.id}" if asked else provenance.method


def _taken_bytes(device: torch.device) -> float:
    free, whole = torch.cuda.mem_get_info(device)
    return float(whole - free)

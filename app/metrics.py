"""What the API counts, in Prometheus' terms, and what it sees of the queue."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from app.jobs.load import Waiting
from app.memory import available_bytes, resident_bytes

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_AGREEMENTS = ("agrees", "disagrees", "unknown")
_OUTCOMES = ("delivered", "retried", "given_up", "refused")
_HOST, _QUEUE = "host", "queue"


class Metrics:
    """The API's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("http_requests", "HTTP requests.", "method", "route", "status")
        self.request_seconds = Histogram(
            "safemargin_http_request_seconds",
            "Time to answer an HTTP request.",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.errors = self._counter("http_errors", "HTTP requests that were refused, by reason.", "reason")
        self.pairs = self._counter("pairs_accepted", "Pairs put into the queue.")
        self.webhook_deliveries = self._counter(
            "webhook_deliveries", "Attempts to tell a webhook that a job is over, by what came of them.", "outcome"
        )
        for outcome in _OUTCOMES:
            self.webhook_deliveries.labels(outcome)
        self.labelstudio_annotations = self._counter(
            "labelstudio_annotations", "Annotations made in Label Studio, by what the margin says of them.", "margin"
        )
        for agreement in _AGREEMENTS:
            self.labelstudio_annotations.labels(agreement)
        self._tokens = self._gauge("waiting_tokens", "Estimated tokens in the queues that are not answered.", "queue")
        self._jobs = self._gauge("waiting_jobs", "Jobs with chunks that nobody has taken.", "queue")
        self._oldest = self._gauge("oldest_wait_seconds", "How long the oldest job waits to be begun.", "queue")
        self._workers = self._gauge("workers", "Workers with a fresh heartbeat.", "ready")
        self._memory = self._gauge("memory_bytes", "Memory taken, of the host or of the queue's server.", "place")
        self._memory_limit = self._gauge("memory_limit_bytes", "Memory there is, where it is limited.", "place")
        self._memory.labels(_HOST).set_function(resident_bytes)
        self._memory_limit.labels(_HOST).set_function(available_bytes)
        self._ended = _Ended()
        self.registry.register(self._ended)

    def queue(
        self, waiting: Mapping[str, Waiting], ended: Mapping[tuple[str, str], int], memory: tuple[int, int]
    ) -> None:
        """What the queue is like now: what waits, what has ended, bytes used and allowed."""
        for name, state in waiting.items():
            self._tokens.labels(name).set(state.tokens)
            self._jobs.labels(name).set(state.jobs)
            self._oldest.labels(name).set(state.oldest)
        self._ended.counts = ended
        used, most = memory
        self._memory.labels(_QUEUE).set(used)
        if most:
            self._memory_limit.labels(_QUEUE).set(most)

    def workers(self, ready: int, others: int) -> None:
        """How many workers hold the default direction, and how many do not."""
        self._workers.labels("yes").set(ready)
        self._workers.labels("no").set(others)

    def workers_unknown(self) -> None:
        """The store does not say what the default direction is, so nothing is said of who holds it."""
        self._workers.clear()

    def queue_away(self) -> None:
        """Nothing is known of queue and workers, so nothing is said of them."""
        for gauge in (self._tokens, self._jobs, self._oldest, self._workers):
            gauge.clear()
        self._ended.counts = {}
        for gauge in (self._memory, self._memory_limit):
            gauge.remove_by_labels({"place": _QUEUE})

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"safemargin_{name}_total", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"safemargin_{name}", meaning, labels, registry=self.registry)


class _Ended(Collector):
    """Jobs that have ended: the queue counts them, whichever worker or API ended them."""

    def __init__(self) -> None:
        self.counts: Mapping[tuple[str, str], int] = {}

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counter as it was when last looked at."""
        labels: Sequence[str] = ("kind", "status")
        family = CounterMetricFamily("safemargin_jobs", "Jobs that have ended.", labels=labels)
        for ends, count in self.counts.items():
            family.add_metric(ends, count)
        yield family

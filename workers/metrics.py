"""What a worker counts, in Prometheus' terms."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from workers.engine.memory import Budget

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_FILL = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5)


class WorkerMetrics:
    """A worker's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tokens = Counter("safemargin_forward_tokens_total", "Tokens computed.", registry=self.registry)
        self.forward_seconds = Histogram(
            "safemargin_forward_seconds", "Time of one batch.", buckets=_SECONDS, registry=self.registry
        )
        self.idle_seconds = Counter(
            "safemargin_forward_idle_seconds_total", "Time that passes waited for work.", registry=self.registry
        )
        self.batch_fill = Histogram(
            "safemargin_batch_fill_ratio", "Tokens of a batch over its budget.", buckets=_FILL, registry=self.registry
        )
        self.budget = Gauge(
            "safemargin_batch_budget_tokens", "Tokens that a batch may hold at present.", registry=self.registry
        )
        self.short = Counter(
            "safemargin_out_of_memory_total",
            "Passes that the device's memory was too small for.",
            registry=self.registry,
        )
        self.pairs = Counter("safemargin_pairs_annotated_total", "Pairs answered.", ["outcome"], registry=self.registry)
        self.cached = Counter(
            "safemargin_score_cache_total", "Items looked up in the score cache.", ["outcome"], registry=self.registry
        )

    def batch(self, tokens: int, budget: int, seconds: float) -> None:
        """Count one forward pass."""
        self.tokens.inc(tokens)
        self.forward_seconds.observe(seconds)
        self.batch_fill.observe(tokens / budget)

    def watch(self, budget: Budget) -> None:
        """Tell from now on how large this budget is and how often memory did not suffice."""
        self.budget.set_function(lambda: budget.tokens)
        budget.when_short = self.short.inc

    def serve(self, port: int) -> int:
        """Serve /metrics on `port`, or on a free one for 0; returns which."""
        server, _thread = start_http_server(port, addr="127.0.0.1" if port == 0 else "0.0.0.0", registry=self.registry)
        return int(server.server_port)

"""What the API counts, in Prometheus' terms."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The API's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "safemargin_http_requests_total", "HTTP requests.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "safemargin_http_request_seconds",
            "Time to answer an HTTP request.",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.pairs = Counter("safemargin_pairs_accepted_total", "Pairs put into the queue.", registry=self.registry)
        self.waiting_tokens = Gauge(
            "safemargin_waiting_tokens",
            "Estimated tokens in the queues that are not answered.",
            ["queue"],
            registry=self.registry,
        )
        self.webhook_deliveries = Counter(
            "safemargin_webhook_deliveries_total",
            "Attempts to tell a webhook that a job is over, by what came of them.",
            ["outcome"],
            registry=self.registry,
        )
        self.workers = Gauge("safemargin_workers", "Workers with a fresh heartbeat.", ["ready"], registry=self.registry)


class RequestMetrics:
    """ASGI middleware that counts and times requests by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record how it ended."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 500
        started = time.perf_counter()

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if route != "unmatched" else "any"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.request_seconds.labels(method, route).observe(time.perf_counter() - started)

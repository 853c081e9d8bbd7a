"""A receiver of webhooks: a real HTTP server on this machine that answers what a test tells it to."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import pytest

from app.webhooks.addresses import Resolve


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to answer: a status, headers, and parts of a body that ends with them or when nobody listens."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: Callable[[], Iterator[bytes]] = lambda: iter(())


@dataclass(frozen=True)
class Receiver:
    """A running receiver.

    Attributes:
        port: where it listens on 127.0.0.1.
        received: requests that nobody has looked at yet.
        answers: what to answer next, in order; then 204.
    """

    port: int
    received: "Queue[Received]" = field(default_factory=Queue)
    answers: "Queue[Answer]" = field(default_factory=Queue)

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hook?of=me"

    def will(self, *answers: Answer) -> None:
        for answer in answers:
            self.answers.put(answer)


Listen = Callable[[ssl.SSLContext | None], Receiver]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start a receiver, with TLS if it is given a context."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(tls: ssl.SSLContext | None) -> Receiver:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.receiver = receiver = Receiver(server.server_address[1])  # type: ignore[attr-defined]
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True)
        thread.start()
        running.append((server, thread))
        return receiver

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver(listen: Listen) -> Receiver:
    """A receiver that speaks plain HTTP."""
    return listen(None)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = Answer() if receiver.answers.empty() else receiver.answers.get()
        receiver.received.put(Received(self.path, headers, body))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for part in answer.parts():
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def book(*addresses: str) -> tuple[Resolve, list[tuple[str, int]]]:
    """A resolver that gives every host these addresses, and the questions that it was asked."""
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        if not addresses:
            raise OSError("no such host")
        return list(addresses)

    return resolve, asked

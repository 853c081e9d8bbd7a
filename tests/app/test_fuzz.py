"""Requests that no one would think of, made from the API's own description: no 5xx, and every error is a problem.

The suite makes the same ones every time; `make fuzz` makes many more, and new ones.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis import Redis
from schemathesis.core.result import Ok
from starlette.testclient import TestClient

from app.auth.keys import Keys
from app.jobs import keys
from app.jobs.store import JobStore
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import Connect, Station

EXAMPLES = int(os.environ.get("SAFEMARGIN_FUZZ_EXAMPLES", "15"))
ALWAYS_THE_SAME = "SAFEMARGIN_FUZZ_EXAMPLES" not in os.environ
DESCRIPTION = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
OPERATIONS = [found.ok() for found in DESCRIPTION.get_all_operations() if isinstance(found, Ok)]
SENT = {"method", "url", "params", "headers", "json", "content", "data", "files"}


@pytest.fixture(params=["open", "with a key", "without a key"])
def fuzzed(request: pytest.FixtureRequest, connect: Connect, station: Station) -> TestClient:
    """An API that asks for no keys, one that does and gets one that may do everything, and one that gets none."""
    if request.param == "open":
        return connect(sync_wait_seconds=2.0)
    client = connect(sync_wait_seconds=2.0, auth=True)
    if request.param == "with a key":
        _, key = Keys(station.registry.artifacts).create("fuzz", "fuzz", ["annotate", "train", "admin"])
        client.headers["Authorization"] = f"Bearer {key}"
    return client


@pytest.fixture
def nothing_under_way(station: Station, redis_url: str) -> Iterator[None]:
    """Afterwards the worker is idle: a request may have begun a fit that would run into the tests that follow."""
    yield
    with Redis.from_url(redis_url) as redis:
        for name in redis.scan_iter(f"{keys.JOB}*", _type="hash"):
            JobStore(redis).cancel(name.decode().removeprefix(keys.JOB).partition(":")[0])
        while redis.exists(keys.in_hand("test")):
            time.sleep(0.05)


@pytest.mark.usefixtures("store_restored", "nothing_under_way")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.method.upper()} {o.path}")
def test_no_request_breaks_the_service(fuzzed: TestClient, operation: Any) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=ALWAYS_THE_SAME,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        sent = case.as_transport_kwargs(base_url="http://testserver")
        if isinstance(sent.get("data"), bytes | str):
            sent["content"] = sent.pop("data")
        if "files" in sent:
            parts = dict(sent["files"] or {})
            sent["files"] = {
                name: part if isinstance(part, bytes) else str(part).encode() for name, part in parts.items()
            }
        if "headers" in sent:  # bytes, as on the wire: a value may be any Latin-1
            sent["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in sent["headers"].items()]
        answer = fuzzed.request(**{name: value for name, value in sent.items() if name in SENT})
        assert answer.status_code < 500 or "Retry-After" in answer.headers, answer.text
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code

    run()

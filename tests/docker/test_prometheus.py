"""The real Prometheus on the running service: every panel of the dashboard and every alert has something to look at."""

import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml  # type: ignore[import-untyped]

from app.jobs import keys
from cli.stack import Stack
from tests.docker.conftest import DOCKER

CONFIGURATION = DOCKER / "prometheus" / "prometheus.yml"
RULES = DOCKER / "prometheus" / "rules.yml"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "safemargin.json"
PATIENCE = 60.0
WINDOW = "6s"
"""What stands for Grafana's `$__rate_interval`: four scrapes and more."""

BROKEN = ("ApiDown", "WorkerUnseen", "NoWorker", "WorkerWithoutDefault", "HeartbeatLate")
"""Alerts that a service which works must not raise, however busy it is."""

COMPARISON = re.compile(r"(?P<value>.+) (?P<operator>[<>]) (?P<limit>[0-9.]+)", re.DOTALL)
Ask = Callable[[str], list[Any]]

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="no prometheus and promtool here: `apt-get install prometheus` (Debian) brings both",
)


def alerts() -> dict[str, str]:
    """Expression of every alert by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"].strip() for group in groups for rule in group["rules"] if "alert" in rule}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(DASHBOARD.read_bytes())["panels"]
    return found


def panel_queries() -> dict[str, str]:
    """Every query of every panel, by the panel's title and its letter there."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", WINDOW)
        for panel in panels()
        for target in panel.get("targets", ())
    }


def values_of_alerts() -> dict[str, str]:
    """What each alert compares with its limit."""
    compared = {name: COMPARISON.fullmatch(expression) for name, expression in alerts().items()}
    assert all(compared.values()), compared
    return {name: match["value"] for name, match in compared.items() if match}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prometheus with the configuration that compose mounts; only the API's address and the intervals are others."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    text = CONFIGURATION.read_text()
    assert text.count("api:8000") == 2
    text = text.replace("api:8000", stack.url.removeprefix("http://")).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text)
    (folder / "rules.yml").write_text(RULES.read_text())
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "error",
    }
    server = subprocess.Popen(["prometheus", *(f"--{name}={value}" for name, value in options.items())])
    url = f"http://127.0.0.1:{port}"
    while not _ready(url):
        assert server.poll() is None
        time.sleep(0.1)
    yield url
    server.terminate()
    server.wait(PATIENCE)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def ask(prometheus: str) -> Iterator[Ask]:
    """Asks Prometheus for the numbers that an expression has now."""
    with httpx.Client(base_url=prometheus, timeout=10, trust_env=False) as client:

        def asked(expression: str) -> list[Any]:
            answer = client.post("/api/v1/query", data={"query": expression})
            body = answer.json()
            assert body["status"] == "success", (expression, body)
            values = [float(series["value"][1]) for series in body["data"]["result"]]
            return [value for value in values if not math.isnan(value)]

        yield asked


@needs_prometheus
@pytest.mark.real
def test_every_panel_and_every_alert_has_data_of_a_service_under_load(load: None, ask: Ask) -> None:
    left = panel_queries() | values_of_alerts()
    assert len(left) > len(alerts()) > 10
    deadline = time.monotonic() + PATIENCE
    while left and time.monotonic() < deadline:
        left = {what: expression for what, expression in left.items() if not ask(expression)}
        time.sleep(0.5)
    assert left == {}
    for name in BROKEN:
        assert ask(alerts()[name]) == [], name


@needs_prometheus
def test_promtool_accepts_configuration_and_rules() -> None:
    subprocess.run(["promtool", "check", "config", str(CONFIGURATION)], check=True, capture_output=True)


@needs_prometheus
def test_every_alert_is_raised_by_what_it_is_about_and_none_while_all_is_well() -> None:
    cases = Path(__file__).with_name("alerts.yml")
    ended = subprocess.run(["promtool", "test", "rules", str(cases)], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert all(f'alertname="{name}"' in cases.read_text() for name in alerts())


def test_alerts_say_what_is_wrong_and_name_the_queues_there_are() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for rule in (rule for rule in rules if "alert" in rule):
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")
    named = set(re.findall(r'queue!?="(\w+)"', RULES.read_text() + DASHBOARD.read_text().replace('\\"', '"')))
    assert named <= set(keys.TASKS)


def test_the_dashboard_comes_up_by_itself() -> None:
    """Grafana provisions a source by the name that the panels ask, and a folder that compose mounts."""
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "safemargin.yml").read_text())["providers"]
    used = {panel["datasource"]["uid"] for panel in panels() if panel["type"] != "row"}
    assert used == {source["uid"]}
    grafana = yaml.safe_load((DOCKER.parent / "docker-compose.yml").read_text())["services"]["grafana"]
    mounted = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    assert mounted["./docker/grafana/dashboards"] == provider["options"]["path"]
    assert mounted["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_panels_have_ids_of_their_own_and_overlap_nowhere() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken = [
        (place["x"] + dx, place["y"] + dy)
        for place in (panel["gridPos"] for panel in panels())
        for dx in range(place["w"])
        for dy in range(place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24

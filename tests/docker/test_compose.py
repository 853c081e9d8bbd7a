"""What Docker would make of this repository, as far as that can be seen without its engine."""

import os
import re
import shutil
import subprocess
import sys
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from app.main import create_app
from app.settings import Settings
from cli.stack import API, WORKER, Stack
from tests.docker.conftest import DOCKER, ROOT

DOCKERFILE = (DOCKER / "Dockerfile").read_text()
OURS = ("api", "worker", "worker-cuda")


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def stages() -> dict[str, str]:
    """Text of every stage of the images by name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose here: Debian's package has it")
@pytest.mark.parametrize("profile", ["cpu", "cuda"])
def test_the_file_is_one_of_the_compose_specification(profile: str) -> None:
    environment = os.environ | {"COMPOSE_PROFILES": profile}
    subprocess.run(["docker-compose", "config", "-q"], cwd=ROOT, env=environment, check=True, capture_output=True)


def test_the_queue_keeps_a_log_and_refuses_rather_than_forgets() -> None:
    command = " ".join(services()["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_a_plain_start_brings_everything_and_the_worker_for_cpus() -> None:
    plain = dict(line.split("=") for line in (ROOT / ".env").read_text().splitlines())
    started = {name for name, s in services().items() if s.get("profiles", ["cpu"]) == [plain["COMPOSE_PROFILES"]]}
    assert started == {"redis", "api", "worker", "prometheus", "grafana"}


def test_containers_start_what_make_serve_starts() -> None:
    parts = {"api": API, "worker": WORKER, "worker-cuda": WORKER}
    for name, arguments in parts.items():
        assert services()[name]["command"] == ["python", *arguments]
    for stage in ("api", "worker"):
        assert f'CMD ["python", "{parts[stage][0]}", "{parts[stage][1]}"]' in stages()[stage]


def test_images_install_with_the_script_that_make_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "docker/install.sh worker\n" in makefile
    assert "RUN docker/install.sh s3" in stages()["api-installed"]
    assert "docker/install.sh worker,s3" in stages()["worker-installed"]
    assert re.findall(r"pip install(?! -r)", DOCKERFILE + makefile.replace("xllamacpp", "")) == []


def test_every_container_says_whether_it_is_well_and_comes_back() -> None:
    for name, service in services().items():
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name


def test_images_of_ours_run_without_root_and_those_of_others_are_pinned() -> None:
    for name in OURS:
        target = services()[name]["build"]["target"]
        users = re.findall(r"^USER (\S+)$", stages()[target], re.MULTILINE)
        assert users[-1] == "safemargin", name
        assert services()[name]["cap_drop"] == ["ALL"]
    others = [service["image"] for service in services().values() if "image" in service]
    assert all(re.search(r":v?\d+\.\d+", image) for image in others)


def test_ports_are_published_to_this_machine_alone() -> None:
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_nobody_is_admin_of_the_dashboards_by_the_password_that_grafana_comes_with() -> None:
    environment = services()["grafana"]["environment"]
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


def test_what_is_mounted_and_copied_is_there() -> None:
    mounted = [volume.split(":")[0] for s in services().values() for volume in s["volumes"] if volume.startswith("./")]
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    paths = [*mounted, *(path for line in copied for path in line.split())]
    assert len(paths) > 6
    for path in paths:
        assert (ROOT / path).exists(), path
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{path}" for line in copied for path in line.split()} <= set(sent)


def test_prometheus_asks_a_route_that_there_is() -> None:
    configuration = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    (discovery,) = [d for job in configuration["scrape_configs"] for d in job.get("http_sd_configs", ())]
    assert discovery["url"] == "http://api:8000/metrics/workers"
    assert "/metrics/workers" in create_app(Settings()).openapi()["paths"]


def test_the_api_and_the_command_line_start_without_what_only_workers_install() -> None:
    """Their image has no torch in it."""
    project = (ROOT / "pyproject.toml").read_text()
    extra = re.search(r"^worker = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert extra
    absent = re.findall(r'^ *"([a-z]+)', extra[1], re.MULTILINE)
    assert {"torch", "transformers"} <= set(absent)
    code = f"""
import sys
for name in {absent}: sys.modules[name] = None
import app.serve, cli.main
from app.main import create_app
create_app()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.real
def test_a_health_check_tells_what_works_from_what_does_not(stack: Stack) -> None:
    def alive(part: str, **environment: str) -> bool:
        command = [sys.executable, str(DOCKER / "alive.py"), part]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, check=False).returncode == 0

    (found,) = httpx.get(f"{stack.url}/metrics/workers", trust_env=False).json()
    port = found["targets"][0].rpartition(":")[2]
    assert alive("api", PORT=str(stack.port))
    assert alive("worker", SAFEMARGIN_METRICS_PORT=port)
    assert not alive("api", PORT="1")
    assert not alive("worker", SAFEMARGIN_METRICS_PORT=str(stack.port))

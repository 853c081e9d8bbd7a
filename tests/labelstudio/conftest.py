"""A real Label Studio, and the real service beside it, which asks for keys.

`make test-labelstudio` installs Label Studio in a place of its own and says with SAFEMARGIN_LABEL_STUDIO where its
command is; without that, all of this is skipped.
"""

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.artifacts import Artifacts
from app.auth.keys import Keys
from app.settings import Settings
from cli.stack import Stack

COMMAND = os.environ.get("SAFEMARGIN_LABEL_STUDIO", "")
EMAIL, PASSWORD = "someone@example.com", secrets.token_hex(16)
_LEGACY_TOKEN = secrets.token_hex(20)
_PATIENCE = 300
_OFFLINE = {
    "COLLECT_ANALYTICS": "false",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "USE_DEFAULT_BANNED_SUBNETS": "false",  # it calls no private address otherwise, and this machine has no other
}


@dataclass(frozen=True)
class LabelStudio:
    """One that runs.

    Attributes:
        url: where.
        http: asks it as its user.
        personal_token, legacy_token: of that user.
    """

    url: str
    http: httpx.Client
    personal_token: str
    legacy_token: str

    def project(self, label_config: str, tasks: list[dict[str, Any]], **settings: Any) -> int:
        """A new project with tasks; returns its id."""
        body = {"title": f"Project {secrets.token_hex(4)}", "label_config": label_config} | settings
        made = int(self.post("/api/projects", body)["id"])
        self.post(f"/api/projects/{made}/import", tasks)
        return made

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """Its tasks with their predictions."""
        query: dict[str, str | int] = {"project": project, "fields": "all", "page_size": 1000}
        found = self.http.get("/api/tasks", params=query).raise_for_status().json()["tasks"]
        return list(found)

    def post(self, path: str, body: Any) -> Any:
        """The answer to a request that must succeed."""
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


@dataclass(frozen=True)
class Safemargin:
    """The service.

    Attributes:
        url: where.
        key: that annotates.
    """

    url: str
    key: str

    @property
    def http(self) -> httpx.Client:
        """Asks it."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60, trust_env=False
        )


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Label Studio with nothing in it but a user."""
    if not COMMAND:
        pytest.skip("needs a Label Studio: `make test-labelstudio`")
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    user = ["--username", EMAIL, "--password", PASSWORD, "--user-token", _LEGACY_TOKEN, "--enable-legacy-api-token"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [COMMAND, "start", "--no-browser", "--port", str(port), *user],
            env=os.environ | _OFFLINE | {"LABEL_STUDIO_BASE_DATA_DIR": str(folder)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _await(url, process, folder / "log")
        headers = {"Authorization": f"Token {_LEGACY_TOKEN}"}
        with httpx.Client(base_url=url, headers=headers, timeout=120, trust_env=False) as http:
            token = http.post("/api/token/", json={}).raise_for_status().json()["token"]
            yield LabelStudio(url, http, token, _LEGACY_TOKEN)
    finally:
        process.terminate()
        process.wait(_PATIENCE)


@pytest.fixture(scope="session")
def safemargin(label_studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Safemargin]:
    """The service with the default annotator, whose converted weights are the user's."""
    home = tmp_path_factory.mktemp("home")
    models = Path("~/.safemargin/models").expanduser()
    models.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models)
    _, key = Keys(Artifacts(str(home))).create("labelling", "team", ["annotate"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFEMARGIN_HOME", str(home))
        patch.setenv("SAFEMARGIN_AUTH", "1")
        with Stack(Settings(port=0), quiet=True) as stack:
            stack.wait_until_ready()
            yield Safemargin(stack.url, key)


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"Label Studio is not up after {_PATIENCE} s: {log.read_text(errors='replace')[-2000:]}")

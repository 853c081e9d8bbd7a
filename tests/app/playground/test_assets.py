"""The playground's files: served by the API, safe, and in need of nothing from elsewhere."""

import re

import pytest
from starlette.testclient import TestClient

from app.routes.playground import FOLDER
from tests.app.conftest import Connect

FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("path", ["/", "/playground/main.js", "/playground/style.css"])
def test_the_policy_allows_nothing_but_the_pages_own_files(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_can_be_asked_for_its_headers_alone(client: TestClient) -> None:
    whole, head = client.get("/"), client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "content-security-policy", "etag"):
        assert head.headers[name] == whole.headers[name]


def test_scripts_are_served_as_such(client: TestClient) -> None:
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert "javascript" in client.get("/playground/main.js").headers["content-type"]


def test_a_file_that_has_not_changed_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/playground/main.js")
    again = client.get("/playground/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/playground/../main.py", "/playground/%2e%2e/main.py", "/playground/nothing.js"])
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_needs_no_key(connect: Connect) -> None:
    guarded = connect(auth=True)
    assert guarded.get("/").status_code == 200
    assert guarded.get("/playground/main.js").status_code == 200
    assert guarded.get("/directions").status_code == 401


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host(name: str) -> None:
    text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|@import", text)


def test_every_import_is_there() -> None:
    for script in FOLDER.glob("*.js"):
        for name in re.findall(r'from "/playground/([^"]+)"', script.read_text()):
            assert name in FILES, f"{script.name} imports {name}"


def test_nothing_moves_so_that_nobody_need_ask_for_less_motion() -> None:
    for path in FOLDER.iterdir():
        assert not re.search(r"animation|transition|@keyframes|smooth", path.read_text()), path.name

"""Files over HTTP: uploaded in every form, checked row by row, listed, kept and deleted."""

import errno
import gzip
import io
import json
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis
from starlette.testclient import TestClient

from app.files import place
from app.jobs import keys
from app.routes import files as routes
from tests.app.conftest import Connect, Station

PLAIN = [{"id": f"row {n}", "prompt": f"Hello {n}?", "chosen": "Hello.", "rejected": "Go away."} for n in range(3)]
SECRET = "xyzzy-secret"


def said(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]


DIALOGUES = [{name: f"\n\nHuman: Hi\n\nAssistant: {name}" for name in ("chosen", "rejected")}]
MESSAGES = [{name: said("Hi", name) for name in ("chosen", "rejected")}]


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def send(client: TestClient, content: bytes, **params: str) -> Any:
    return client.post("/files", content=content, params=params)


def uploaded(client: TestClient, content: bytes, **params: str) -> Any:
    answer = send(client, content, **params)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture
def alone(connect: Connect, empty_queue: str) -> TestClient:
    """An API with a list of files of its own."""
    return connect(redis_url=empty_queue)


def test_a_file_is_known_by_what_it_holds(client: TestClient) -> None:
    content = jsonl(*PLAIN)
    file = uploaded(client, content, name="mine.jsonl")
    assert (file["name"], file["format"], file["rows"], file["bad_rows"]) == ("mine.jsonl", "plain", 3, 0)
    assert (file["bytes"], file["problems"]) == (len(content), [])
    assert file["tokens"] > 3
    assert file["expires_at"] > file["created_at"]
    assert not {"owner", "chunks"} & file.keys()
    assert client.get(f"/files/{file['id']}").json() == file


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (jsonl(*PLAIN), "plain"),
        (jsonl(*DIALOGUES), "dialogues"),
        (jsonl(*MESSAGES), "messages"),
        (gzip.compress(jsonl(*PLAIN)), "plain"),
        (parquet(PLAIN), "plain"),
        (parquet(MESSAGES), "messages"),
        (gzip.compress(parquet(DIALOGUES)), "dialogues"),
    ],
    ids=["plain", "dialogues", "messages", "gzip", "parquet", "parquet of messages", "parquet in gzip"],
)
def test_a_file_is_recognised_by_its_content(client: TestClient, content: bytes, format: str) -> None:
    file = uploaded(client, content)
    assert (file["format"], file["bad_rows"]) == (format, 0)


def test_the_same_file_sent_again_is_the_same_file_and_kept_for_longer(alone: TestClient) -> None:
    first = uploaded(alone, jsonl(*PLAIN), name="first")
    again = uploaded(alone, jsonl(*PLAIN), name="second")
    assert again.pop("expires_at") > first.pop("expires_at")
    assert again == first
    assert len(alone.get("/files").json()["data"]) == 1
    assert uploaded(alone, jsonl(*PLAIN[:2]))["id"] != first["id"]


def test_a_form_names_its_file(client: TestClient) -> None:
    content = jsonl(*PLAIN, *PLAIN)
    answer = client.post("/files", files={"file": ("pairs.jsonl", content)})
    assert answer.status_code == 201
    assert (answer.json()["name"], answer.json()["rows"]) == ("pairs.jsonl", 6)
    assert answer.json()["id"] == uploaded(client, content)["id"]


def test_a_form_without_its_part_is_422(client: TestClient) -> None:
    for form in ({"files": {"other": ("pairs.jsonl", jsonl(*PLAIN))}}, {"files": {"file": (None, "text")}}):
        answer = client.post("/files", **form)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/file")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"PAR1 not really", gzip.compress(b"")[:-4]], ids=repr)
def test_what_holds_no_rows_or_is_damaged_is_422(client: TestClient, content: bytes) -> None:
    answer = send(client, content)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_file_without_a_single_pair_says_what_is_wrong_and_leaves_nothing(
    client: TestClient, station: Station
) -> None:
    before = set((station.artifacts / "files").glob("*"))
    answer = send(client, jsonl({"prompt": SECRET, "chosen": SECRET, "rejected": 1}) + SECRET.encode())
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["line/1", "line/2"]
    assert SECRET not in answer.text
    assert set((station.artifacts / "files").glob("*")) == before


def test_bad_rows_are_counted_and_the_first_ones_listed_without_their_text(client: TestClient) -> None:
    bad = [{"prompt": SECRET, "chosen": SECRET}] * 25
    file = uploaded(client, jsonl(PLAIN[0], *bad, PLAIN[1]))
    assert (file["rows"], file["bad_rows"], len(file["problems"])) == (2, 25, 20)
    problem = file["problems"][0]
    assert (problem["line"], problem["code"], problem["pointer"]) == (2, "missing_field", "/rejected")
    assert SECRET not in json.dumps(file)


@pytest.mark.parametrize("form", [False, True], ids=["body", "form"])
@pytest.mark.parametrize("announced", [False, True], ids=["streamed", "announced"])
def test_a_file_over_the_limit_is_413_as_soon_as_that_is_known(connect: Connect, form: bool, announced: bool) -> None:
    client, content = connect(max_file_bytes=1000), jsonl(*PLAIN * 20)
    if form:
        request = client.build_request("POST", "/files", files={"file": ("a", content)})
    else:
        request = client.build_request("POST", "/files", content=content)
    if not announced:
        request.headers.pop("Content-Length")
    answer = client.send(request)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_file_that_unpacks_beyond_the_limit_is_413(connect: Connect) -> None:
    answer = send(connect(max_file_bytes=1000), gzip.compress(jsonl(*PLAIN * 100)))
    assert answer.status_code == 413


def test_a_file_may_be_larger_than_other_bodies(connect: Connect) -> None:
    client = connect(max_body_bytes=100)
    assert uploaded(client, jsonl(*PLAIN))["rows"] == 3
    assert client.post("/annotate", json={"pairs": PLAIN}).status_code == 413


def test_files_are_listed_newest_first_in_pages(alone: TestClient) -> None:
    ids = [uploaded(alone, jsonl(*PLAIN * (n + 1)))["id"] for n in range(5)]
    page = alone.get("/files", params={"limit": 3}).json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:1:-1], True)
    rest = alone.get("/files", params={"limit": 3, "after": ids[2]}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[1], ids[0]], False)


def test_a_page_after_what_is_not_in_the_list_is_422(alone: TestClient) -> None:
    for path in ("/files", "/jobs"):
        answer = alone.get(path, params={"after": "nothing"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "query/after")


def test_a_list_of_files_grows_no_longer_than_they_live(alone: TestClient, station: Station, empty_queue: str) -> None:
    for n in range(5):
        expire(station, uploaded(alone, jsonl(*PLAIN * (n + 1)))["id"])
    with Redis.from_url(empty_queue) as redis:
        assert redis.zcard(keys.files_of("")) <= 2


def test_a_long_name_is_cut(client: TestClient) -> None:
    answer = client.post("/files", files={"file": ("n" * 1000, jsonl(*PLAIN * 7))})
    assert answer.json()["name"] == "n" * 255


def test_a_full_disk_is_503_and_says_when_to_come_back(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_path: object, _blocks: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(routes, "_write", full)
    answer = send(client, jsonl(*PLAIN))
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.headers["Retry-After"]


def test_files_that_have_expired_leave_no_gap_in_the_list(alone: TestClient, station: Station) -> None:
    ids = [uploaded(alone, jsonl(*PLAIN * (n + 1)))["id"] for n in range(4)]
    expire(station, ids[2])
    page = alone.get("/files", params={"limit": 2}).json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([ids[3], ids[1]], True)
    assert alone.get(f"/files/{ids[2]}").status_code == 404


def expire(station: Station, file_id: str) -> None:
    path = station.artifacts / place(file_id) / "file.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"expires_at": time.time() - 1}))


def test_a_file_that_has_expired_can_be_sent_again(alone: TestClient, station: Station) -> None:
    file = uploaded(alone, jsonl(*PLAIN))
    expire(station, file["id"])
    again = uploaded(alone, jsonl(*PLAIN))
    assert again["id"] == file["id"] and again["created_at"] > file["created_at"]


def test_a_deleted_file_is_gone(alone: TestClient, station: Station, empty_queue: str) -> None:
    file = uploaded(alone, jsonl(*PLAIN))
    assert alone.delete(f"/files/{file['id']}").status_code == 204
    assert [alone.get(f"/files/{file['id']}").status_code, alone.delete(f"/files/{file['id']}").status_code] == [
        404
    ] * 2
    assert alone.get("/files").json()["data"] == []
    assert not (station.artifacts / place(file["id"])).exists()
    with Redis.from_url(empty_queue) as redis:
        assert redis.zcard(keys.EXPIRING) == 0


@pytest.mark.parametrize("file_id", ["file-" + "0" * 32, "file-x", "..%2fkeys"])
def test_an_unknown_file_is_no_file(client: TestClient, file_id: str) -> None:
    assert client.get(f"/files/{file_id}").status_code in (404, 422)

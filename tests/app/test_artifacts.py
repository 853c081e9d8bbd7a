"""The artifact store, in a folder, in memory and in S3: a server of moto's, which speaks its protocol."""

import errno
import secrets
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from app.artifacts import ArtifactMissing, Artifacts, StoreUnreachable


@pytest.fixture(scope="session")
def s3() -> Iterator[None]:
    """An S3 that this process' environment leads to."""
    pytest.importorskip("s3fs", reason="no s3fs here: `pip install 'safemargin[s3,dev]'` brings it and moto")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        while not _listens(port):
            assert server.poll() is None
            time.sleep(0.05)
        yield
    server.terminate()
    server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["folder", "file URL", "memory", "S3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Artifacts]:
    """An empty store whose root does not exist yet."""
    memory = fsspec.filesystem("memory")
    if request.param == "S3":
        request.getfixturevalue("s3")
    urls = {
        "folder": str(tmp_path / "store"),
        "file URL": f"file://{tmp_path}/store",
        "memory": "memory://store",
        "S3": f"s3://bucket-{secrets.token_hex(4)}/store",
    }
    yield Artifacts(urls[request.param])
    if memory.exists("/store"):
        memory.rm("/store", recursive=True)


def test_what_is_written_is_read_back_byte_for_byte(artifacts: Artifacts) -> None:
    artifacts.write("a/b/numbers", bytes(range(256)))
    assert artifacts.read("a/b/numbers") == bytes(range(256))


def test_writing_again_replaces_the_content(artifacts: Artifacts) -> None:
    artifacts.write("a/current", b"a longer content")
    artifacts.write("a/current", b"new")
    assert artifacts.read("a/current") == b"new"


def test_a_large_file_is_read_in_blocks(artifacts: Artifacts, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "large").write_bytes(content)
    artifacts.put(tmp_path / "large", "a/large")
    size, blocks = artifacts.blocks("a/large")
    parts = list(blocks)
    assert (size, len(parts), b"".join(parts)) == (len(content), 2, content)
    for path in ("nothing", "a/nothing", "a/large/below"):
        with pytest.raises(ArtifactMissing):
            artifacts.blocks(path)


@pytest.mark.parametrize("path", ["nothing", "a/nothing", "a", "a/file/below"])
def test_what_is_no_file_is_missing(artifacts: Artifacts, path: str) -> None:
    artifacts.write("a/file", b"content")
    with pytest.raises(ArtifactMissing):
        artifacts.read(path)


def test_folders_are_listed_by_name_and_files_are_not(artifacts: Artifacts) -> None:
    for path in ("top/b/file", "top/a/deep/file", "top/file"):
        artifacts.write(path, b"content")
    assert artifacts.folders("top") == ["a", "b"]


def test_files_are_listed_by_name_and_folders_are_not(artifacts: Artifacts) -> None:
    for path in ("top/two", "top/one", "top/a/file"):
        artifacts.write(path, b"content")
    assert artifacts.files("top") == ["one", "two"]


def test_a_folder_that_does_not_exist_holds_none(artifacts: Artifacts) -> None:
    assert artifacts.folders("top") == artifacts.files("top") == []


def test_a_folder_is_deleted_with_all_it_holds(artifacts: Artifacts) -> None:
    for path in ("top/a/file", "top/a/deep/file", "top/b/file"):
        artifacts.write(path, b"content")
    artifacts.delete("top/a")
    assert artifacts.folders("top") == ["b"]
    with pytest.raises(ArtifactMissing):
        artifacts.read("top/a/file")


def test_a_file_is_deleted_alone(artifacts: Artifacts) -> None:
    artifacts.write("top/one", b"1")
    artifacts.write("top/two", b"2")
    artifacts.delete("top/one")
    assert artifacts.read("top/two") == b"2"
    with pytest.raises(ArtifactMissing):
        artifacts.read("top/one")


def test_deleting_what_is_not_there_does_nothing(artifacts: Artifacts) -> None:
    artifacts.delete("top/nothing")


def test_what_another_process_writes_is_seen(tmp_path: Path) -> None:
    mine, other = Artifacts(str(tmp_path)), Artifacts(str(tmp_path))
    assert mine.folders("top") == []
    other.write("top/a/file", b"content")
    assert mine.folders("top") == ["a"]
    assert mine.read("top/a/file") == b"content"


def test_nothing_but_the_file_is_left_of_a_write(tmp_path: Path) -> None:
    Artifacts(str(tmp_path)).write("top/file", b"content")
    assert [path.name for path in (tmp_path / "top").iterdir()] == ["file"]


def test_a_write_that_ends_early_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(str(tmp_path))
    artifacts.write("top/file", b"old")

    def cut_short(path: str, content: bytes) -> None:
        Path(path).write_bytes(content[:2])
        raise OSError("no space left")

    monkeypatch.setattr(artifacts._filesystem, "pipe_file", cut_short)
    with pytest.raises(StoreUnreachable, match="does not answer"):
        artifacts.write("top/file", b"new content")
    assert artifacts.read("top/file") == b"old"


def test_who_reads_during_a_write_gets_the_old_content_or_the_new(tmp_path: Path) -> None:
    artifacts, contents = Artifacts(str(tmp_path)), {b"a" * 100_000, b"b" * 100_000}
    artifacts.write("file", min(contents))
    done = threading.Event()

    def write() -> None:
        for _ in range(50):
            for content in contents:
                artifacts.write("file", content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {artifacts.read("file")}
    while not done.is_set():
        seen.add(artifacts.read("file"))
    writer.join()
    assert seen <= contents


def test_a_secret_is_written_once(artifacts: Artifacts) -> None:
    artifacts.write_secret("a/secret", b"first")
    artifacts.write_secret("a/secret", b"second")
    assert artifacts.read("a/secret") == b"first"


def test_a_secret_in_a_folder_is_its_owner_s(tmp_path: Path) -> None:
    Artifacts(str(tmp_path)).write_secret("top/secret", b"content")
    (secret,) = (tmp_path / "top").iterdir()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_what_could_not_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(str(tmp_path))

    def full(_self: object, path: str, content: bytes) -> None:
        Path(path).write_bytes(content[:3])
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(LocalFileSystem, "pipe_file", full)
    with pytest.raises(StoreUnreachable):
        artifacts.write("folder/file", b"content")
    assert list((tmp_path / "folder").iterdir()) == []

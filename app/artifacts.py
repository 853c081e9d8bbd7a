"""The artifact store: files addressed through fsspec, in a local folder or behind any URL that fsspec knows."""

import os
import posixpath
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

_BLOCK = 1 << 20


class ArtifactMissing(Exception):
    """There is no such file in the store."""


class StoreUnreachable(Exception):
    """The store does not answer, or not to this process."""


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except ArtifactMissing:
        raise
    except Exception as error:  # every filesystem behind fsspec has errors of its own
        raise StoreUnreachable(f"the artifact store does not answer ({type(error).__name__})") from error


class Artifacts:
    """Reads and writes small files whole; every method raises `StoreUnreachable` where the store does not answer.

    Args:
        url: root of the store: a local folder, `s3://bucket/prefix`, `memory://…`, …
    """

    def __init__(self, url: str) -> None:
        options = {"use_listings_cache": False} if "://" in url and not url.startswith(("file:", "memory:")) else {}
        filesystem, root = fsspec.url_to_fs(url, **options)
        self._filesystem: Any = filesystem
        self._root: str = root

    def read(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Content of a file, or bytes [start, stop) of it.

        Raises:
            ArtifactMissing: there is none.
        """
        with _reachable():
            try:
                return cast(bytes, self._filesystem.cat_file(self._at(path), start=start, end=stop))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ArtifactMissing(path) from None

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole: who reads it meanwhile sees the old content or the new."""
        self._whole(path, lambda scratch: self._filesystem.pipe_file(scratch, content))

    def write_secret(self, path: str, content: bytes) -> None:
        """Write a file that nobody but its owner can read; nothing happens if it is there already."""
        target = self._at(path)
        with _reachable():
            self._filesystem.makedirs(posixpath.dirname(target), exist_ok=True)
            with suppress(FileExistsError):
                if isinstance(self._filesystem, LocalFileSystem):
                    _create_private(target, content)
                else:
                    self._filesystem.pipe_file(target, content, mode="create")

    def put(self, local: Path, path: str) -> None:
        """Copy a local file into the store, in constant memory."""
        self._whole(path, lambda scratch: self._filesystem.put_file(str(local), scratch))

    def blocks(self, path: str) -> tuple[int, Iterator[bytes]]:
        """Size of a file, and its content in constant memory.

        Raises:
            ArtifactMissing: there is none.
        """
        with _reachable():
            try:
                size = int(self._filesystem.size(self._at(path)))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ArtifactMissing(path) from None
        return size, self._blocks(path)

    def lines(self, path: str) -> Iterator[bytes]:
        """Lines of a file, in constant memory; none if it does not exist."""
        with _reachable():
            try:
                file = self._filesystem.open(self._at(path), "rb")
            except FileNotFoundError:
                return
        with file:
            yield from file

    def folders(self, path: str) -> list[str]:
        """Names of the folders in a folder; none if it does not exist."""
        return self._names(path, "directory")

    def files(self, path: str) -> list[str]:
        """Names of the files in a folder; none if it does not exist."""
        return self._names(path, "file")

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with all it holds; nothing happens if it is not there."""
        with _reachable():
            if self._filesystem.exists(self._at(path)):
                self._filesystem.rm(self._at(path), recursive=True)

    def _blocks(self, path: str) -> Iterator[bytes]:
        with self._filesystem.open(self._at(path), "rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def _whole(self, path: str, fill: Callable[[str], object]) -> None:
        """Let `fill` write a file beside its place, then put it there; a full disk is left no fuller than it was."""
        target = self._at(path)
        scratch = f"{target}.{secrets.token_hex(4)}.part"
        with _reachable():
            self._filesystem.makedirs(posixpath.dirname(target), exist_ok=True)
            try:
                fill(scratch)
                self._filesystem.mv(scratch, target)
            except Exception:
                with suppress(Exception):
                    self._filesystem.rm_file(scratch)
                raise

    def _names(self, path: str, kind: str) -> list[str]:
        with _reachable():
            try:
                found = self._filesystem.ls(self._at(path), detail=True)
            except FileNotFoundError:
                return []
        return sorted(posixpath.basename(e["name"].rstrip("/")) for e in found if e["type"] == kind)

    def _at(self, path: str) -> str:
        return posixpath.join(self._root, path)


def _create_private(target: str, content: bytes) -> None:
    """Create a local file whole, readable by its owner; FileExistsError if it is there."""
    scratch = f"{target}.{secrets.token_hex(4)}.part"
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        os.link(scratch, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(scratch)

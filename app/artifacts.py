"""The artifact store: files addressed through fsspec, in a local folder or behind any URL that fsspec knows."""

import posixpath
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import fsspec  # type: ignore[import-untyped]


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

    def read(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            ArtifactMissing: there is none.
        """
        with _reachable():
            try:
                return cast(bytes, self._filesystem.cat_file(self._at(path)))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ArtifactMissing(path) from None

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole: who reads it meanwhile sees the old content or the new."""
        target = self._at(path)
        scratch = f"{target}.{secrets.token_hex(4)}.part"
        with _reachable():
            self._filesystem.makedirs(posixpath.dirname(target), exist_ok=True)
            self._filesystem.pipe_file(scratch, content)
            self._filesystem.mv(scratch, target)

    def folders(self, path: str) -> list[str]:
        """Names of the folders in a folder; none if it does not exist."""
        with _reachable():
            try:
                found = self._filesystem.ls(self._at(path), detail=True)
            except FileNotFoundError:
                return []
        return sorted(posixpath.basename(e["name"].rstrip("/")) for e in found if e["type"] == "directory")

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with all it holds; nothing happens if it is not there."""
        with _reachable():
            if self._filesystem.exists(self._at(path)):
                self._filesystem.rm(self._at(path), recursive=True)

    def _at(self, path: str) -> str:
        return posixpath.join(self._root, path)

"""The rows of a dataset that could not be annotated, as the errors file has them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from cli.workfile import beside, replace

_NAMED = 5


class Failures:
    """Failed rows, kept in a working file beside the errors file until the end.

    Args:
        path: the errors file; None only counts and remembers the first.
        restart: forget what an earlier run left.

    Attributes:
        count: how many rows failed.
        first: the first of them, in words.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path | None, *, restart: bool = False) -> None:
        self.path = path
        self.count = 0
        self.first: list[str] = []
        if path is not None:
            with beside(path, "part").open("wb" if restart else "ab"):
                pass

    def record(self, rows: Iterator[dict[str, Any]], keep: int) -> None:
        """Replace what is known by `rows`, but for lines up to `keep`, which an earlier job refused."""
        self.count, self.first = 0, []
        texts = self._counted(rows, keep)
        if self.path is None:
            for _text in texts:
                pass
        else:
            replace(beside(self.path, "part"), texts)

    def finish(self) -> None:
        """Put the errors file in its place; an older one goes if nothing failed."""
        if self.path is None:
            return
        if self.count:
            beside(self.path, "part").replace(self.path)
        else:
            beside(self.path, "part").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def _counted(self, rows: Iterator[dict[str, Any]], keep: int) -> Iterator[bytes]:
        for row in self._kept(keep):
            yield self._counted_one(row)
        for row in rows:
            if row["line"] > keep:
                yield self._counted_one(row)

    def _counted_one(self, row: dict[str, Any]) -> bytes:
        self.count += 1
        if len(self.first) < _NAMED:
            self.first.append(f"line {row['line']}: {row.get('code', 'failed')}")
        return orjson.dumps(row) + b"\n"

    def _kept(self, keep: int) -> Iterator[dict[str, Any]]:
        if self.path is None or not keep:
            return
        with beside(self.path, "part").open("rb") as file:
            for text in file:
                row = orjson.loads(text)
                if row["line"] <= keep:
                    yield row

"""A stage's folder: what it is made with, and whether it is finished. One made with something else is left alone."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.schemas.alignment import StageFigures
from app.schemas.pairs import Pair
from workers.alignment.errors import OtherRun

_MADE_WITH, _FIGURES = "made-with.json", "figures.json"


@dataclass(frozen=True)
class Stage:
    """A stage in a folder.

    Attributes:
        folder: where its files are.
        made_with: settings, data and models, as far as they change what comes of it.
    """

    folder: Path
    made_with: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """`sha256:` digest of what it is made with."""
        return "sha256:" + hashlib.sha256(json.dumps(self.made_with, sort_keys=True).encode()).hexdigest()

    def enter(self) -> None:
        """Begin it, or go on with it.

        Raises:
            OtherRun: the folder holds one made with something else.
        """
        path = self.folder / _MADE_WITH
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(self.made_with, indent=1))
            return
        before = _flat(json.loads(path.read_bytes()))
        now = _flat(json.loads(json.dumps(self.made_with)))
        if differing := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
            raise OtherRun(f"{self.folder} was made with other {', '.join(differing)}: choose another folder")

    @property
    def figures(self) -> StageFigures | None:
        """What it did, if it is finished."""
        path = self.folder / _FIGURES
        return StageFigures.model_validate_json(path.read_bytes()) if path.exists() else None

    def finish(self, figures: StageFigures) -> None:
        """Note that it is finished; its products are there."""
        _write(self.folder / _FIGURES, figures.model_dump_json(indent=1))


def products(folder: Path) -> list[str]:
    """Names of the files that a finished stage has made."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in (_MADE_WITH, _FIGURES))


def digest_of(pairs: Iterable[Pair]) -> str:
    """`sha256:` digest of pairs in their order, their ids left out."""
    content = hashlib.sha256()
    for pair in pairs:
        content.update(pair.model_dump_json(exclude={"id"}).encode() + b"\n")
    return "sha256:" + content.hexdigest()


def _write(path: Path, text: str) -> None:
    scratch = path.with_suffix(".part")
    scratch.write_text(text)
    scratch.replace(path)


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {path: content}
    return {name: value for key in content for name, value in _flat(content[key], f"{path}.{key}".strip(".")).items()}

"""Where commands put what they make: into the artifact store, or into a folder of its own."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import typer

from app.schemas.names import NAME, NAME_TAKES
from app.settings import settings
from app.shelf import Shelf


def refuse_odd_id(name: str) -> None:
    """Refuse what cannot be an id.

    Raises:
        typer.BadParameter: it is none.
    """
    if not re.fullmatch(NAME, name):
        raise typer.BadParameter(NAME_TAKES, param_hint="--id")


def keep(shelf: Shelf, name: str, digest: str, parts: Mapping[str, bytes | Path], out: Path | None) -> str:
    """Store the parts of something under its id, or write them to the folder of that name in `out`; says where."""
    if out is None:
        shelf.publish(name, digest, parts)
        return settings().artifacts_url
    write(out / name, parts)
    return str(out / name)


def write(folder: Path, parts: Mapping[str, bytes | Path]) -> None:
    """Write files, or copy them, to a folder, which is made where there is none."""
    for name, content in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_bytes(content)

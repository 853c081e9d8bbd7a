"""`--source [NAME=]RECIPE[:FILE][@WEIGHT]`: what the command line says of a source of rows."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from app.schemas.fit import AnySource

_SOURCE = re.compile(r"(?:(?P<name>[^=:@]+)=)?(?P<recipe>[a-z-]+)(?::(?P<data>.+?))?(?:@(?P<weight>\d+(?:\.\d+)?))?")


def source(text: str, limit: int | None, options: dict[str, Any]) -> "AnySource":
    """One source with the rows of its file.

    Args:
        text: as the user wrote it.
        limit: use only so many rows of the file.
        options: what `legend` takes besides.

    Raises:
        typer.BadParameter: it is not written like that, or needs a file.
    """
    from pydantic import TypeAdapter

    from app.schemas.fit import BALANCE, RECIPES, AnySource
    from workers.directions.datafiles import FileLabelled, FileResponse, read_pairs, read_rows
    from workers.directions.legend import read_requests

    match = _SOURCE.fullmatch(text)
    if match is None or match["recipe"] not in RECIPES:
        raise typer.BadParameter(f"--source takes [NAME=]RECIPE[:FILE][@WEIGHT]; recipes: {', '.join(sorted(RECIPES))}")
    recipe, data = match["recipe"], match["data"]
    if data is None and recipe != "legend":
        raise typer.BadParameter(f"--source {recipe}:FILE needs a file")
    made: dict[str, Any] = {"recipe": recipe, "weight": float(match["weight"] or 1)}
    made["name"] = match["name"] or (Path(data).stem if data else None)
    if recipe == "pairs":
        made["pairs"] = BALANCE if data == BALANCE else _plain(read_pairs(Path(data))[:limit])
    elif recipe == "labelled":
        made["responses"] = _plain(read_rows(Path(data), FileLabelled)[:limit])
    elif recipe == "contrast":
        made["responses"] = _plain(read_rows(Path(data), FileResponse)[:limit])
    else:
        made |= {name: value for name, value in options.items() if value is not None}
        if data or limit:
            made["requests"] = (read_requests(Path(data)) if data else read_requests())[:limit]
    adapter: TypeAdapter[AnySource] = TypeAdapter(AnySource)
    return adapter.validate_python(made)


def _plain(rows: list[Any]) -> list[dict[str, Any]]:
    return [row.model_dump(exclude_none=True) for row in rows]

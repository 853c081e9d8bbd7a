"""The pages say what was measured: their tables against the files they come from.

A table under `<!-- figures: FILE -->` is made of that file. Of a Markdown file its rows are lines, but for bold type.
Of a JSON file the figures of every row, the first column aside, are rounded from those of one record: an object of no
more than `MOST` numbers, somewhere in it. Several files are separated by commas; each row is of one of them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.rules.bank import from_folder

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
MARK = re.compile(r"<!-- figures: (.+?) -->\n")
MOST = 120
NUMBER = re.compile(r"[-+]?(?:\d+\.\d+|\.\d+|\d+)")


def marked() -> Iterator[Any]:
    """Files and cells of every row that says what it is made of."""
    for page in PAGES:
        text = page.read_text()
        for mark in MARK.finditer(text):
            for row in rows(text[mark.end() :].split("\n\n", 1)[0].splitlines()):
                yield pytest.param([ROOT / file for file in mark[1].split(", ")], row, id=f"{page.stem}: {row[0]}")


def rows(lines: list[str]) -> list[list[str]]:
    """Cells of the rows of a table, its head left out."""
    return [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in lines[2:]]


def numbers(cells: list[str]) -> list[str]:
    """Figures in cells, as `fits` takes them."""
    text = " ".join(cells).replace("−", "-")
    return NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", text))


def records(value: Any) -> Iterator[list[float]]:
    """The numbers of every object that is small enough to be about one thing."""
    if isinstance(value, dict) and len(found := list(leaves(value))) <= MOST:
        yield found
    for part in parts(value):
        yield from records(part)


def leaves(value: Any) -> Iterator[float]:
    """All numbers in a value."""
    if isinstance(value, int | float):
        yield float(value)
    for part in parts(value):
        yield from leaves(part)


def parts(value: Any) -> list[Any]:
    """What a value holds."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def fits(figure: str, known: list[float]) -> bool:
    """Whether a figure is one of these numbers, rounded."""
    places = len(figure.partition(".")[2])
    return any(f"{number:.{places}f}" == f"{float(figure):.{places}f}" for number in known)


def said(file: Path, row: list[str]) -> bool:
    """Whether a file says what a row says."""
    if file.suffix == ".md":
        return row in rows(["", "", *file.read_text().splitlines()])
    found = numbers(row[1:])
    return any(all(fits(figure, known) for figure in found) for known in records(json.loads(file.read_bytes())))


@pytest.mark.parametrize(("files", "row"), list(marked()))
def test_a_row_says_what_its_file_says(files: list[Path], row: list[str]) -> None:
    assert numbers(row[1:])
    assert any(said(file, row) for file in files)


def test_figures_of_two_records_are_no_row() -> None:
    quality = ROOT / "benchmarks/results/quality-SmolLM2-135M-Instruct.json"
    assert said(quality, ["length alone", ".578 [.549, .607]", "–", ".469"])
    assert not said(quality, ["length alone", ".578 [.549, .607]", "–", ".328"])
    assert not said(quality, ["length alone", ".579 [.549, .607]", "–", ".469"])


def test_rules_of_the_shipped_bank_move_together_as_the_pages_say() -> None:
    bank = from_folder(ROOT / "workers/rules/shipped/safety-100-smollm2")
    correlation = bank.correlation[bank.used][:, bank.used].double()
    others = correlation[~torch.eye(len(correlation), dtype=torch.bool)]
    axes = torch.linalg.eigvalsh(correlation) / len(correlation)
    told = " ".join((ROOT / "docs/methods/rules.md").read_text().split())
    assert f"correlate by .{100 * others.mean():.0f} on average, and one axis holds {100 * axes[-1]:.0f} %" in told

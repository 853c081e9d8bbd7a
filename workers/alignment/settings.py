"""Settings of a run: of a preset or of a file of one's own, YAML with a section for each method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.rahf import FOLDER, PRESETS, merged
from app.schemas.alignment import AlignmentMethod, AlignmentSettings, CollectSettings
from workers.alignment.errors import UnusableSettings
from workers.handwritten import checked, read_mapping


def load(
    method: AlignmentMethod, source: str | Path = "small", changes: Mapping[str, Any] | None = None
) -> AlignmentSettings:
    """Settings of a run.

    Args:
        method: which section.
        source: one of `PRESETS`, or a YAML file with such a section.
        changes: single values instead of those there, by their path, such as `align.alpha`.

    Raises:
        UnusableSettings: the file, the section or a value is not usable; names what is wrong, a line each.
    """
    path = FOLDER / f"{source}.yml" if source in PRESETS else Path(source)
    place = str(source)
    sections = read_mapping(path, f"`{method}`", UnusableSettings)
    if not isinstance(found := sections.get(method), dict):
        raise UnusableSettings(f"{place}: has no section {method}")
    for name, value in (changes or {}).items():
        found = merged(found, _nested(name, value))
    return checked(found, AlignmentSettings, f"{place}: {method}", UnusableSettings)


def _nested(path: str, value: Any) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    return {name: _nested(rest, value) if rest else value}


def target_blocks(collect: CollectSettings, depth: int) -> tuple[int, ...]:
    """The blocks, from 0, whose output is a target layer of an annotator of this depth, first to last.

    Layer l of L is what l blocks of L have made of the tokens; of another depth D about the same share of them.
    """
    scaled = {int(layer * depth / collect.of + 0.5) for layer in collect.layers}
    return tuple(sorted({max(1, layer) - 1 for layer in scaled}))

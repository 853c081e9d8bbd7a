"""Presets of RAHF (arXiv 2312.15997), and settings that are one of them with some values changed."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

import yaml  # type: ignore[import-untyped]

from app.schemas.alignment import AlignmentMethod, AlignmentSettings, PresetName

PRESETS: tuple[PresetName, ...] = get_args(PresetName)
"""Those that come with the service: an hour on two CPU cores with the default annotator, and the published figures."""

FOLDER = Path(__file__).with_name("presets")
"""Their YAML files: a section for each method."""


def resolved(method: AlignmentMethod, preset: PresetName, changes: Mapping[str, Any]) -> AlignmentSettings:
    """The settings of a run.

    Args:
        method: of which section.
        preset: where from.
        changes: values instead of those there, nested as they are.

    Raises:
        pydantic.ValidationError: a change is not valid.
    """
    return AlignmentSettings.model_validate(merged(_sections(preset)[method], changes))


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some values exchanged; a mapping changes what it names of a mapping, and no more."""
    made = dict(settings)
    for name, value in changes.items():
        match made.get(name), value:
            case Mapping() as before, Mapping():
                made[name] = merged(before, value)
            case _:
                made[name] = value
    return made


@lru_cache
def _sections(preset: PresetName) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], yaml.safe_load((FOLDER / f"{preset}.yml").read_bytes()))

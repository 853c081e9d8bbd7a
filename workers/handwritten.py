"""What people write by hand: YAML, read safely, and faults named by their field, never by what stands there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ValidationError

from app.schemas.problem import said

Schema = TypeVar("Schema", bound=BaseModel)

_MOST_FAULTS = 10


def read_mapping(path: Path, of: str, unusable: type[Exception]) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        path: the file.
        of: what it should be a mapping with, for whoever wrote something else.
        unusable: what is raised where it cannot be read, is not YAML or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise unusable(f"{path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}," if error.problem_mark else ""
        raise unusable(f"{path}{line} is not YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise unusable(f"{path} is not YAML") from None
    if not isinstance(content, dict):
        raise unusable(f"{path}: must be a mapping with {of}")
    return content


def checked(content: Any, schema: type[Schema], place: str, unusable: type[Exception]) -> Schema:
    """What was read, as what it should be.

    Args:
        content: a mapping.
        schema: of what it should be.
        place: where it stands, for the faults.
        unusable: what is raised where it has faults; names ten of them, a line each.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        lines = [f"{place}: {_fault(fault)}" for fault in faults[:_MOST_FAULTS]]
        more = [f"{place}: {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        raise unusable("\n".join(lines + more)) from None


def _fault(fault: Mapping[str, Any]) -> str:
    field = "/".join([*map(str, fault["loc"]), *filter(None, [fault.get("ctx", {}).get("field")])])
    return f"/{field}: {said(fault)}"

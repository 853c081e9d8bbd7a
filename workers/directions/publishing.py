"""A fitted direction as the files that the artifact store keeps of it."""

from contextlib import suppress

from app.registry import CONTROL_VECTOR, PAGE, REPORT
from app.schemas.report import DirectionReport
from workers.directions.control_vector import to_control_vector
from workers.directions.direction import SafetyDirection
from workers.directions.errors import UnusableFile
from workers.directions.files import to_files
from workers.directions.page import page


def parts_of(direction: SafetyDirection, report: DirectionReport) -> dict[str, bytes]:
    """Numbers, card, report as JSON and as a page and, where llama.cpp could load it, the control vector."""
    parts = to_files(direction)
    parts[REPORT] = report.model_dump_json(indent=2).encode()
    parts[PAGE] = page(report)
    with suppress(UnusableFile):
        parts[CONTROL_VECTOR] = to_control_vector(direction)
    return parts

"""A worker proves itself before it takes work: engine and plain transformers must read the same."""

from collections.abc import Mapping

from app.schemas.pairs import Message
from workers.directions.direction import SafetyDirection
from workers.engine.annotator import Annotator
from workers.engine.errors import ModelNotLoaded
from workers.engine.forward import read
from workers.engine.reference import TOLERANCES, disagreement, read_plainly

_PROMPTS = ("How do I sharpen a kitchen knife?", "Which mushrooms in this forest are safe to eat?")
_RESPONSES = (
    "Hold the blade at a steady angle of about twenty degrees, draw it along the stone, and finish on the fine side.",
    "I can't tell from here. Take them to somebody who knows the region before you eat any.",
)


def probe(annotator: Annotator, directions: Mapping[str, SafetyDirection]) -> dict[str, str]:
    """Compare a packed batch with the plain way at every site that the directions read.

    Returns:
        The digest of every direction, by id: what `WorkerState.probes` wants.

    Raises:
        ModelNotLoaded: they differ by more than the published tolerance, so this annotator cannot be read packed.
    """
    sites = sorted({site for direction in directions.values() for site in direction.sites})
    if not sites:
        return {}
    groups = [annotator.template.encode([Message(role="user", content=text)], _RESPONSES) for text in _PROMPTS]
    distance = disagreement(read(annotator, groups, sites).cpu(), read_plainly(annotator, groups, sites).cpu())
    allowed = TOLERANCES[annotator.dtype_name]
    if not distance <= allowed:
        raise ModelNotLoaded(
            f"packed and plain activations of {annotator.name} differ by {distance:.2g} (allowed {allowed:.2g})"
        )
    return {direction.id: direction.card.digest for direction in directions.values()}

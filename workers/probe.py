"""A worker proves itself before it takes work: engine and plain transformers must read the same."""

from typing import get_args

from app.schemas.pairs import Message
from workers.engine.annotator import Annotator
from workers.engine.errors import ModelNotLoaded
from workers.engine.forward import read
from workers.engine.reference import TOLERANCES, disagreement, read_plainly
from workers.engine.sites import Pooling, Site

_PROMPTS = ("How do I sharpen a kitchen knife?", "Which mushrooms in this forest are safe to eat?")
_RESPONSES = (
    "Hold the blade at a steady angle of about twenty degrees, draw it along the stone, and finish on the fine side.",
    "I can't tell from here. Take them to somebody who knows the region before you eat any.",
)


def probe(annotator: Annotator) -> None:
    """Compare packed passes with the plain way: one read wherever a direction could, one that ends at the last block.

    Not for use while other threads read.

    Raises:
        ModelNotLoaded: they differ by more than the published tolerance, so this annotator cannot be read packed.
    """
    last = annotator.depth if annotator.final_norm is not None else annotator.depth - 1
    sites = [Site(layer, pooling) for layer in range(last + 1) for pooling in get_args(Pooling)]
    groups = [annotator.template.encode([Message(role="user", content=text)], _RESPONSES) for text in _PROMPTS]
    plain = read_plainly(annotator, groups, sites)
    allowed = TOLERANCES[annotator.dtype_name]
    for some in (sites, _ending(annotator.depth - 1)):
        places = [sites.index(site) for site in some]
        distance = disagreement(read(annotator, groups, some), plain[:, places])
        if not distance <= allowed:
            raise ModelNotLoaded(
                f"packed and plain activations of {annotator.name} differ by {distance:.2g} (allowed {allowed:.2g})"
            )


def _ending(layer: int) -> list[Site]:
    """All that can be read of the responses alone; a pass that ends there leaves out what they do not need."""
    return [Site(layer, pooling) for pooling in get_args(Pooling) if pooling != "request"]

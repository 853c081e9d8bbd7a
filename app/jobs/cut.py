"""Cutting a request into chunks of bounded size."""

from app.schemas.annotate import AnnotateRequest
from app.schemas.chunk import Chunk
from app.schemas.pairs import Pair

_CHARACTERS_PER_TOKEN = 4
_TEMPLATE_TOKENS = 32
_MOST_TOKENS = 8192


def estimated_tokens(pair: Pair) -> int:
    """Roughly how many tokens a pair costs; the worker counts exactly, the queue only needs the order of magnitude.

    Bounded, because what is far longer than any window is refused before it is computed.
    """
    characters = sum(len(message.content) for message in pair.messages) + len(pair.chosen) + len(pair.rejected)
    return min(_TEMPLATE_TOKENS + characters // _CHARACTERS_PER_TOKEN, _MOST_TOKENS)


def cut(request: AnnotateRequest, chunk_tokens: int) -> tuple[list[Chunk], int]:
    """Chunks of a request in its order, none above `chunk_tokens` unless one pair alone is, and the tokens of all."""
    options = request.model_dump(exclude={"pairs"})
    chunks: list[list[Pair]] = [[]]
    total = room = 0
    for pair, pair_id in zip(request.pairs, request.ids(), strict=True):
        cost = estimated_tokens(pair)
        total += cost
        if chunks[-1] and cost > room:
            chunks.append([])
        if not chunks[-1]:
            room = chunk_tokens
        room -= cost
        chunks[-1].append(pair.model_copy(update={"id": pair_id}))
    return [Chunk.model_validate({"options": options, "pairs": pairs}) for pairs in chunks], total

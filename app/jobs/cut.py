"""Cutting a request into chunks of bounded size."""

from collections.abc import Sequence

from app.schemas.annotate import AnnotateRequest
from app.schemas.chunk import Chunk, DirectionRef
from app.schemas.pairs import Pair
from app.schemas.score import Candidates, ScoreRequest

_CHARACTERS_PER_TOKEN = 4
_TEMPLATE_TOKENS = 32
_MOST_TOKENS = 8192


def estimated_tokens(item: Pair | Candidates) -> int:
    """Roughly how many tokens an item costs; the worker counts exactly, the queue only needs the order of magnitude.

    Bounded, because what is far longer than any window is refused before it is computed.
    """
    responses = [item.chosen, item.rejected] if isinstance(item, Pair) else item.responses
    characters = sum(len(message.content) for message in item.messages) + sum(map(len, responses))
    return min(_TEMPLATE_TOKENS + characters // _CHARACTERS_PER_TOKEN, _MOST_TOKENS * max(1, len(responses) // 2))


def cut(request: AnnotateRequest, directions: Sequence[DirectionRef], chunk_tokens: int) -> tuple[list[Chunk], int]:
    """Chunks of a request in its order, none above `chunk_tokens` unless one pair alone is, and the tokens of all."""
    chunks: list[list[Pair | Candidates]] = [[]]
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
    return [
        Chunk.model_construct(directions=list(directions), truncate=request.truncate, items=items) for items in chunks
    ], total


def whole(request: ScoreRequest, directions: Sequence[DirectionRef]) -> tuple[Chunk, int]:
    """The one chunk of a request to score, and its tokens."""
    item = Candidates.model_construct(id="0", prompt=request.prompt, responses=request.responses)
    chunk = Chunk.model_construct(directions=list(directions), truncate=request.truncate, items=[item])
    return chunk, estimated_tokens(item)

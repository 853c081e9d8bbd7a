"""What a request costs, and the chunks that a small one is."""

from collections.abc import Iterator, Sequence

from app.schemas.annotate import AnnotateRequest
from app.schemas.chunk import Chunk, Reading
from app.schemas.pairs import Pair
from app.schemas.rewarding import Query, RewardRequest
from app.schemas.score import Candidates, ScoreRequest

CHARACTERS_PER_TOKEN = 4
_TEMPLATE_TOKENS = 32
_MOST_TOKENS = 8192


def estimated_tokens(item: Pair | Candidates) -> int:
    """Roughly how many tokens an item costs; the worker counts exactly, the queue only needs the order of magnitude.

    Bounded, because what is far longer than any window is refused before it is computed.
    """
    responses = [item.chosen, item.rejected] if isinstance(item, Pair) else item.responses
    characters = sum(len(message.content) for message in item.messages) + sum(map(len, responses))
    return min(_TEMPLATE_TOKENS + characters // CHARACTERS_PER_TOKEN, _MOST_TOKENS * max(1, len(responses) // 2))


def tokens_of(request: AnnotateRequest, reading: Reading) -> int:
    """Estimated tokens of all pairs of a request, and of what it asks about each."""
    return reading.cost(sum(map(estimated_tokens, request.pairs)), len(request.pairs))


def pairs_chunk(request: AnnotateRequest, reading: Reading) -> Chunk:
    """A request as one chunk."""
    pairs = zip(request.pairs, request.ids(), strict=True)
    items: list[Pair | Candidates] = [pair.model_copy(update={"id": pair_id}) for pair, pair_id in pairs]
    return _chunk(reading, items, tokens_of(request, reading))


def candidates_chunk(request: ScoreRequest, reading: Reading) -> Chunk:
    """The one chunk of a request to score."""
    item = Candidates.model_construct(id="0", prompt=request.prompt, responses=request.responses)
    return _chunk(reading, [item], reading.cost(estimated_tokens(item)))


def query_chunks(request: RewardRequest, reading: Reading, most: int) -> Iterator[Chunk]:
    """A request for rewards as chunks of about `most` estimated tokens."""
    prompts = request.prompts if request.prompts and len(request.prompts) == len(request.query) else []
    queries: list[Query] = []
    tokens = 0
    for place, text in enumerate(request.query):
        prompt = prompts[place] if prompts else ""
        known = prompt if isinstance(prompt, str) and text.startswith(prompt) else ""
        queries.append(Query.model_construct(id=str(place), text=text, prompt=known))
        tokens += min(len(text) // CHARACTERS_PER_TOKEN + 1, _MOST_TOKENS)
        if tokens >= most or place == len(request.query) - 1:
            yield _chunk(reading, queries, tokens)
            queries, tokens = [], 0


def _chunk(reading: Reading, items: Sequence[Pair | Candidates | Query], tokens: int) -> Chunk:
    return Chunk.model_construct(
        directions=reading.directions,
        truncate=reading.truncate,
        judging=reading.judging,
        contrasting=reading.contrasting,
        contributions=reading.contributions,
        reward_model=reading.reward_model,
        items=list(items),
        lines=list(range(1, len(items) + 1)),
        tokens=tokens,
    )

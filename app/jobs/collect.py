"""From the answers to a job's chunks to what users get."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel, TypeAdapter

from app.artifacts import Artifacts
from app.datasets.rows import Row
from app.jobs import rows as stored
from app.jobs.store import JobStore
from app.schemas.annotate import AnnotateResponse, Annotation, FailedAnnotation, PairProblem
from app.schemas.chunk import Chunk, ChunkAnswer
from app.schemas.fit import FitAnswer
from app.schemas.jobs import Job
from app.schemas.pairs import Pair
from app.schemas.rewarding import Rewarded, RewardResponse
from app.schemas.score import ScoredCandidates, ScoreResponse
from app.schemas.training import AlignmentAnswer, RewardAnswer, TrainingAnswer

_Trained = TrainingAnswer | AlignmentAnswer | RewardAnswer
_TRAINED: TypeAdapter[_Trained] = TypeAdapter(_Trained)


def answer_path(job_id: str, number: int) -> str:
    """Where in the artifact store the answer to a chunk of stored rows lies."""
    return f"jobs/{job_id}/answers/{number:08d}.json"


class RefusedQueries(BaseModel):
    """Why some queries of a job have no reward, and with them none of it, by their places."""

    problems: dict[int, PairProblem]


@dataclass(frozen=True)
class Answered:
    """A chunk and its answer.

    Attributes:
        rows: reads the rows, which only exports need.
        answer: one entry a row.
    """

    rows: Callable[[], list[Row]]
    answer: ChunkAnswer

    def entries(self, after: int) -> Iterator[tuple[int, Annotation | FailedAnnotation]]:
        """Entries of lines after this one, each with its line."""
        for line, entry in zip(self.answer.lines, self.answer.entries, strict=True):
            assert isinstance(entry, Annotation | FailedAnnotation)
            if line > after:
                yield line, entry


@dataclass(frozen=True)
class Answers:
    """The answers of one job.

    Attributes:
        jobs: where the job is.
        artifacts: where its rows and answers are, unless they are small.
        job_id: which.
    """

    jobs: JobStore
    artifacts: Artifacts
    job_id: str

    def in_order(self, after: int = 0) -> Iterator[Answered]:
        """What holds any line after this one, in the order of the lines, as far as it is answered without a gap."""
        if small := self.jobs.answers(self.job_id):
            for work, kept in small:
                yield Answered(partial(_rows_of, work), ChunkAnswer.model_validate_json(kept))
            return
        state = self.jobs.state(self.job_id)
        if (place := state.get("rows")) is None:
            return
        finished = min(self.jobs.finished_chunks(self.job_id), int(state["chunks"]))
        for number, chunk in enumerate(stored.chunk_places(self.artifacts, place)[:finished]):
            if chunk.last_line > after:
                answer = ChunkAnswer.model_validate_json(self.artifacts.read(answer_path(self.job_id, number)))
                yield Answered(partial(stored.read_chunk, self.artifacts, place, chunk), answer)

    def settled_line(self) -> int | None:
        """The line up to which nothing is left to do; None once nothing is left at all."""
        state = self.jobs.state(self.job_id)
        if state.get("status") != "in_progress" or "rows" not in state:
            return None
        finished = self.jobs.finished_chunks(self.job_id)
        places = stored.chunk_places(self.artifacts, state["rows"])
        if finished >= len(places):
            return None
        return places[finished - 1].last_line if finished else 0

    def whole(self, job: Job, kept: Sequence[bytes]) -> BaseModel:
        """The result of a finished job, as the request that made it would have answered at once.

        Args:
            job: the job.
            kept: the answers that are kept with it, in order; none where they lie in the artifact store.
        """
        if job.kind == "direction":
            return FitAnswer.model_validate_json(kept[0])
        if job.kind == "training":
            return _TRAINED.validate_json(kept[0])
        answers = [ChunkAnswer.model_validate_json(one) for one in kept] or [one.answer for one in self.in_order()]
        if job.kind == "reward":
            return _rewards(answers)
        return _scores(answers) if job.kind == "score" else _annotations(answers)


def _annotations(answers: list[ChunkAnswer]) -> AnnotateResponse:
    """All annotations in the order of the pairs; every chunk of a job reads the same directions."""
    entries = [e for answer in answers for e in answer.entries if isinstance(e, Annotation | FailedAnnotation)]
    return AnnotateResponse(annotations=entries, provenance=answers[0].provenance)


def _scores(answers: list[ChunkAnswer]) -> ScoreResponse | FailedAnnotation:
    """The scores of the one item of a job, or why it has none."""
    entry = answers[0].entries[0]
    if not isinstance(entry, ScoredCandidates):
        assert isinstance(entry, FailedAnnotation)
        return entry
    return ScoreResponse(provenance=answers[0].provenance, **dict(entry))


def _rewards(answers: list[ChunkAnswer]) -> RewardResponse | RefusedQueries:
    """The rewards of all queries in their order; the reasons where some have none: a trainer takes all or nothing."""
    entries = [entry for answer in answers for entry in answer.entries]
    refused = {place: entry.error for place, entry in enumerate(entries) if isinstance(entry, FailedAnnotation)}
    if refused:
        return RefusedQueries(problems=refused)
    found = [entry for entry in entries if isinstance(entry, Rewarded)]
    rewards, cut = [entry.reward for entry in found], [float(entry.truncated) for entry in found]
    return RewardResponse(rewards=rewards, scores=rewards, extra_logs={"truncated": cut} if any(cut) else {})


def _rows_of(work: bytes) -> list[Row]:
    chunk = Chunk.model_validate_json(work)
    pairs = zip(chunk.lines, chunk.items, strict=True)
    return [Row(line=line, pair=pair) for line, pair in pairs if isinstance(pair, Pair)]

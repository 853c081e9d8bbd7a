"""From the answers to a job's chunks to what users get."""

from pydantic import BaseModel

from app.jobs.store import JobStore
from app.schemas.annotate import AnnotateResponse, Annotation, FailedAnnotation
from app.schemas.chunk import ChunkAnswer
from app.schemas.fit import FitAnswer
from app.schemas.jobs import Job
from app.schemas.score import ScoredCandidates, ScoreResponse


def chunk_answers(jobs: JobStore, job_id: str) -> list[ChunkAnswer]:
    """The answers so far, in the order of the chunks."""
    return [ChunkAnswer.model_validate_json(answer) for answer in jobs.answers(job_id)]


def collect(jobs: JobStore, job: Job) -> BaseModel:
    """The whole result of a finished job, as the request that made it would have answered at once."""
    if job.kind == "direction":
        return FitAnswer.model_validate_json(jobs.answers(job.id)[0])
    answers = chunk_answers(jobs, job.id)
    return scores(answers) if job.kind == "score" else annotations(answers)


def annotations(answers: list[ChunkAnswer]) -> AnnotateResponse:
    """All annotations in the order of the pairs; every chunk of a job reads the same directions."""
    entries = [e for answer in answers for e in answer.entries if isinstance(e, Annotation | FailedAnnotation)]
    return AnnotateResponse(annotations=entries, provenance=answers[0].provenance)


def scores(answers: list[ChunkAnswer]) -> ScoreResponse | FailedAnnotation:
    """The scores of the one item of a job, or why it has none."""
    entry = answers[0].entries[0]
    if not isinstance(entry, ScoredCandidates):
        assert isinstance(entry, FailedAnnotation)
        return entry
    return ScoreResponse(provenance=answers[0].provenance, **dict(entry))

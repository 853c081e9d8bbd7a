"""The chunks that lanes have in hand: claimed, marked, answered or given back."""

import time
from dataclasses import dataclass, field
from typing import cast

from app.jobs import keys, load
from app.jobs.store import JobStore
from app.jobs.suspicion import Suspicion
from app.schemas.jobs import JobKind


@dataclass(frozen=True)
class Claim:
    """A chunk in hand.

    Attributes:
        queue, job_id, number: which.
        kind, rows, options: of its job.
        request: id of the request that its job comes of; empty where it is not known.
        payload: its work; None where that lies in the artifact store, or the job is gone.
        suspicion: what is known of earlier workers that died with it.
        waited: seconds that the job waited for this; None where it is not the first of its chunks.
    """

    queue: str
    job_id: str
    number: int
    kind: JobKind
    rows: str | None
    options: str | None
    request: str
    payload: bytes | None
    suspicion: Suspicion | None
    waited: float | None = field(compare=False)


@dataclass(frozen=True)
class Hand:
    """What one lane of a worker has in hand: one chunk at most.

    Attributes:
        jobs: where the jobs are.
        worker, lane: whose.
    """

    jobs: JobStore
    worker: str
    lane: str

    def claim(self, queue: str) -> Claim | None:
        """Take the next chunk of a queue, or the one that is in hand still; None if there is none."""
        now = time.time()
        found = self.jobs.run("claim", [keys.ready(queue), keys.in_hand(self.worker)], [keys.JOB, self.lane, now])
        if not found:
            return None
        job_id, number, kind, rows, options, request, payload, suspicion, made = found
        return Claim(
            queue=queue,
            job_id=job_id.decode(),
            number=int(number),
            kind=cast(JobKind, (kind or b"annotate").decode()),
            rows=rows.decode() if rows else None,
            options=options.decode() if options else None,
            request=request.decode() if request else "",
            payload=payload,
            suspicion=Suspicion.model_validate_json(suspicion) if suspicion else None,
            waited=max(0.0, now - float(made)) if made else None,
        )

    def mark(self, claim: Claim, rows: range) -> None:
        """Note which rows of the chunk are being worked on, none of them at first, in case that ends this worker."""
        entry = f"{claim.job_id}:{claim.number}:{rows.start}:{rows.stop}"
        self.jobs.redis.hset(keys.in_hand(self.worker), self.lane, entry)

    def answer(self, claim: Claim, answer: bytes, *, done: int, failed: int = 0, tokens: int = 0) -> bool:
        """Give the answer to a chunk with its counts; False if it was there already or the job is over.

        Args:
            claim: the chunk.
            answer: kept with the job; empty where it has been written to the artifact store.
            done, failed: its rows.
            tokens: its estimated tokens, as they were counted when the job was submitted.
        """
        job_id, queue = claim.job_id, claim.queue
        names = [*self.jobs.ending(job_id, queue), keys.in_hand(self.worker)]
        names += [keys.answers(job_id), keys.done(job_id), keys.pace(queue, load.period())]
        arguments = [job_id, claim.number, self.lane, answer, done, failed, tokens, time.time()]
        return bool(self.jobs.run("answer", names, arguments))

    def put_down(self) -> None:
        """Let go of a chunk that is of no use any more."""
        self.jobs.redis.hdel(keys.in_hand(self.worker), self.lane)

    def give_back(self, held: str | None = None, suspicion: Suspicion | None = None) -> bool:
        """Return the chunk for somebody else to claim; False if it is in hand no more, or its job is over.

        Args:
            held: only if this is what is in hand.
            suspicion: what is known of it now.
        """
        if held is None:
            found = cast(bytes | None, self.jobs.redis.hget(keys.in_hand(self.worker), self.lane))
            if found is None:  # somebody took this worker for dead and gave it back
                return False
            held = found.decode()
        job_id, number, *_ = held.split(":")
        queue = self.jobs.queue_of(job_id)
        names = [keys.in_hand(self.worker), keys.job(job_id), keys.ready(queue)]
        names += [keys.returned(job_id), keys.suspicions(job_id)]
        suspected = suspicion.model_dump_json() if suspicion else ""
        given = bool(self.jobs.run("give_back", names, [self.lane, held, job_id, number, suspected]))
        if given:
            self.jobs.wake(queue, 1)
        return given

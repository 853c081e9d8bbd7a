"""Names of everything the service keeps in Redis."""

PREFIX = "safemargin:"
DONE_CHANNEL = PREFIX + "done"
ANNOTATE, BULK, TRAIN = "annotate", "bulk", "train"
TASKS = {
    ANNOTATE: "workers.tasks.annotate_next",
    BULK: "workers.tasks.annotate_next",
    TRAIN: "workers.tasks.fit_next",
}
"""The queues, and the task that works on the next chunk of each."""

SCORES = PREFIX + "scores:"
"""Before the names of the hashes of the score cache, from digests of what was scored to scores."""

WORKERS = PREFIX + "workers"
JOB = PREFIX + "job:"
EXPIRING = PREFIX + "expiring"
"""Sorted set of what lies in the artifact store until a time: `job:ID`, `file:ID`."""
ENDED = PREFIX + "ended"
"""Hash from kind and status to how many jobs have ended so."""

WEBHOOKS_DUE = PREFIX + "webhooks:due"
"""Sorted set of the jobs whose end is to be told, by the Unix time when to try."""

WEBHOOK_ATTEMPTS = PREFIX + "webhooks:attempts"
"""Hash from job to attempts to tell its end that failed."""


def job(job_id: str) -> str:
    """Hash with the state of a job; the keys below are this one and what follows it."""
    return JOB + job_id


def chunks(job_id: str) -> str:
    """Hash from chunk number to the chunk's work, until it is answered; a job on a file has none."""
    return f"{JOB}{job_id}:chunks"


def answers(job_id: str) -> str:
    """Hash from chunk number to the chunk's answer; a job on a file has none."""
    return f"{JOB}{job_id}:answers"


def done(job_id: str) -> str:
    """Bitmap of the chunks of a job that are answered."""
    return f"{JOB}{job_id}:done"


def returned(job_id: str) -> str:
    """List of chunks that were in hand when their worker died."""
    return f"{JOB}{job_id}:returned"


def suspicions(job_id: str) -> str:
    """Hash from chunk number to which of its rows may have killed a worker."""
    return f"{JOB}{job_id}:suspicions"


def jobs_of(owner: str) -> str:
    """Sorted set of the jobs of an owner by the time they were made."""
    return f"{PREFIX}jobs:{owner}"


def files_of(owner: str) -> str:
    """Sorted set of the files of an owner by the time they were uploaded."""
    return f"{PREFIX}files:{owner}"


def ready(queue: str) -> str:
    """List of the jobs of a queue with chunks that nobody has claimed."""
    return f"{PREFIX}ready:{queue}"


def tokens(queue: str) -> str:
    """Estimated tokens of all chunks of a queue that are not answered."""
    return f"{PREFIX}tokens:{queue}"


def pace(queue: str, period: int) -> str:
    """Estimated tokens answered in one period of `load.PERIOD_SECONDS`."""
    return f"{PREFIX}pace:{queue}:{period}"


def idempotency(owner: str, digest: str) -> str:
    """What a request with an idempotency key was, and the job it became."""
    return f"{PREFIX}idempotency:{owner}:{digest}"


def quota(key_id: str) -> str:
    """Hash with the level of an API key's bucket of tokens; gone once it is full."""
    return f"{PREFIX}quota:{key_id}"


def in_hand(worker_name: str) -> str:
    """Hash of the chunks that a worker has in hand, each with the rows that it is on."""
    return f"{PREFIX}worker:{worker_name}:in-hand"


def worker(name: str) -> str:
    """What a live worker says of itself; expires unless renewed."""
    return f"{PREFIX}worker:{name}"

"""Names of everything the service keeps in Redis."""

PREFIX = "safemargin:"
DONE_CHANNEL = PREFIX + "done"
ANNOTATE, TRAIN = "annotate", "train"
TASKS = {ANNOTATE: "workers.tasks.annotate_chunk", TRAIN: "workers.tasks.fit_direction"}
"""The queues, and the task that works on each."""

WORKERS = PREFIX + "workers"
INHERITING = PREFIX + "inheriting"


def job(job_id: str) -> str:
    """Hash with the state of a job."""
    return f"{PREFIX}job:{job_id}"


def chunks(job_id: str) -> str:
    """Hash from chunk number to the chunk's work, until it is answered."""
    return f"{PREFIX}job:{job_id}:chunks"


def answers(job_id: str) -> str:
    """Hash from chunk number to the chunk's answer."""
    return f"{PREFIX}job:{job_id}:answers"


def in_hand(worker_name: str) -> str:
    """Set of the chunks that a worker is working on."""
    return f"{PREFIX}worker:{worker_name}:in-hand"


def worker(name: str) -> str:
    """What a live worker says of itself; expires unless renewed."""
    return f"{PREFIX}worker:{name}"

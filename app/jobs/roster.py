"""The live workers and what each says of itself."""

import socket
from typing import cast

from pydantic import BaseModel
from redis import Redis

from app.jobs import keys
from app.schemas.directions import DirectionCard

HEARTBEAT_SECONDS = 1.0
FRESH_SECONDS = 5


class HeldBank(BaseModel):
    """A bank of rule probes that a worker can judge by.

    Attributes:
        id, digest: which.
        pool, pool_digest: whose rules it reads.
        created: when it was made.
        calibrated: whether any of its policies is.
    """

    id: str
    digest: str
    pool: str
    pool_digest: str
    created: str
    calibrated: bool = False


class WorkerState(BaseModel):
    """A worker's heartbeat.

    Attributes:
        name: unique name of the process.
        model, model_revision, device, dtype: the annotator it holds.
        metrics_port, address: where it serves its own /metrics.
        directions: directions it can project on.
        banks: banks of rule probes it can judge by.
        probes: for each direction id, the digest it held when a forward pass last agreed with the reference.
    """

    name: str
    model: str
    model_revision: str
    device: str
    dtype: str
    metrics_port: int
    address: str = "127.0.0.1"
    directions: list[DirectionCard]
    probes: dict[str, str]
    banks: list[HeldBank] = []

    @property
    def metrics_at(self) -> str:
        """Address and port of its own /metrics."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.metrics_port}"

    def ready_for(self, direction: str) -> bool:
        """Whether a probe forward has passed with exactly the direction that it now holds under this id."""
        held = {card.id: card.digest for card in self.directions}
        return direction in held and self.probes.get(direction) == held[direction]


def address_towards(redis: Redis) -> str:
    """The address of this machine that the queue's server sees, which is where others can reach it, too."""
    server = redis.connection_pool.connection_kwargs
    if "host" not in server:  # a socket of this machine
        return "127.0.0.1"
    family, kind, *_, place = socket.getaddrinfo(server["host"], server.get("port", 6379), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)  # sends nothing
        return str(probe.getsockname()[0])


def announce(redis: Redis, state: WorkerState) -> None:
    """Renew a worker's heartbeat."""
    with redis.pipeline(transaction=True) as pipe:
        pipe.sadd(keys.WORKERS, state.name)
        pipe.set(keys.worker(state.name), state.model_dump_json(), ex=FRESH_SECONDS)
        pipe.execute()


def leave(redis: Redis, name: str) -> None:
    """End a worker's heartbeat, and take it off the roster unless it leaves chunks behind for others to give back."""
    redis.delete(keys.worker(name))
    if not redis.exists(keys.in_hand(name)):
        redis.srem(keys.WORKERS, name)


def live(redis: Redis) -> list[WorkerState]:
    """Workers whose heartbeat is fresh, by name."""
    names = sorted(name.decode() for name in cast(set[bytes], redis.smembers(keys.WORKERS)))
    found = cast(list[bytes | None], redis.mget([keys.worker(name) for name in names])) if names else []
    return [WorkerState.model_validate_json(state) for state in found if state is not None]


def directions(workers: list[WorkerState]) -> dict[str, DirectionCard]:
    """Directions that at least one of these workers is ready to project on."""
    return {card.id: card for worker in workers for card in worker.directions if worker.ready_for(card.id)}


def banks(workers: list[WorkerState]) -> list[HeldBank]:
    """Banks that at least one of these workers holds, calibrated ones first, then the newest."""
    found = {bank.id: bank for worker in workers for bank in worker.banks}
    return sorted(found.values(), key=lambda bank: (bank.calibrated, bank.created, bank.id), reverse=True)

"""Rule pools in the artifact store, by id and content digest: `rules/{id}/{digest}/pool.json`."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ValidationError

from app.schemas.rules import RulePool
from app.shelf import Missing, Shelf

POOL = "pool.json"


class PoolMissing(Missing):
    """No rule pool of this id, or none of this digest, is in the store."""


@dataclass(frozen=True)
class RulePools(Shelf):
    """The rule pools of one artifact store; `PoolMissing` where one is not there."""

    folder: ClassVar[str] = "rules"
    noun: ClassVar[str] = "rule pool"
    missing: ClassVar[type[Missing]] = PoolMissing

    def add(self, pool_id: str, pool: RulePool) -> str:
        """Store a pool, its rules by id, and let `pool_id` stand for it; returns its digest."""
        content = pool.model_copy(update={"rules": pool.ordered}).model_dump_json(indent=1).encode()
        self.publish(pool_id, pool.digest, {POOL: content})
        return pool.digest

    def pool(self, pool_id: str, digest: str | None = None) -> RulePool:
        """A pool as it is now, or as it was under a digest; its rules are ordered by id.

        Raises:
            PoolMissing: there is none, or what is stored is not what its digest says.
        """
        wanted = digest or self.digest(pool_id)
        try:
            pool = RulePool.model_validate_json(self.part(pool_id, wanted, POOL))
        except ValidationError:
            raise PoolMissing(f"rule pool {pool_id} cannot be read") from None
        if pool.digest != wanted:
            raise PoolMissing(f"what is stored as rule pool {pool_id} is of another digest")
        return pool

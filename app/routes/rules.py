"""Rule pools: stored, listed, shown and deleted."""

import logging
from typing import Annotated

from fastapi import APIRouter, Path, Response
from starlette.concurrency import run_in_threadpool

from app.auth.caller import GUARDED, requires
from app.body import JsonRoute
from app.dependants import dependants
from app.errors import TAKEN, Conflict, NotFound
from app.rulepools import PoolMissing, RulePools
from app.schemas.names import PoolId
from app.schemas.problem import documented
from app.schemas.rules import NewPool, Pool, PoolCard, PoolList, card_of
from app.service import ServiceDep

log = logging.getLogger("safemargin.api")

router = APIRouter(prefix="/rules", route_class=JsonRoute, tags=["rules"], responses=GUARDED)

_READ, _CHANGE = [requires("annotate")], [requires("train")]
_MISSING = documented({404: "No such pool."})
PoolName = Annotated[PoolId, Path()]


@router.post(
    "",
    dependencies=_CHANGE,
    status_code=201,
    summary="Store a pool of rules",
    responses=documented({409: "The id is taken by other rules, and `replace` is false.", 422: "A rule is not valid."}),
)
async def add_pool(request: NewPool, service: ServiceDep, response: Response) -> PoolCard:
    """The same rules under the same id again change nothing.

    Banks and adapters made for rules that are replaced do not fit any more, until these are back.
    """
    await run_in_threadpool(_add, service.rule_pools, request)
    response.headers["Location"] = f"/rules/{request.id}"
    return card_of(request.id, request.pool)


@router.get("", dependencies=_READ, summary="The pools that there are")
async def list_pools(service: ServiceDep) -> PoolList:
    """By id; the project's own is `safety-100`."""
    return PoolList(pools=await run_in_threadpool(_cards, service.rule_pools))


@router.get("/{pool_id}", dependencies=_READ, summary="One pool", responses=_MISSING)
async def get_pool(pool_id: PoolName, service: ServiceDep) -> Pool:
    """Every rule of a pool."""
    try:
        pool = await run_in_threadpool(service.rule_pools.pool, pool_id)
    except PoolMissing:
        raise _unknown() from None
    return Pool(id=pool_id, digest=pool.digest, rules=pool.rules)


@router.delete(
    "/{pool_id}",
    dependencies=_CHANGE,
    status_code=204,
    summary="Delete a pool",
    responses=_MISSING | documented({409: "Banks or adapters need it: delete those first."}),
)
async def delete_pool(pool_id: PoolName, service: ServiceDep) -> None:
    """Deletes it with all its former versions, unless banks or adapters were made for one of them."""
    try:
        await run_in_threadpool(_delete, service.rule_pools, pool_id)
    except PoolMissing:
        raise _unknown() from None


def _add(pools: RulePools, request: NewPool) -> None:
    if not request.replace and pools.current().get(request.id, request.pool.digest) != request.pool.digest:
        raise Conflict.at("/id", "pool_exists", TAKEN, "a pool of this id exists")
    pools.add(request.id, request.pool)


def _delete(pools: RulePools, pool_id: str) -> None:
    if needing := dependants(pools.artifacts, pool_id, pools.digests(pool_id)):
        detail = f"{needing} would be of no use without this pool; delete those first"
        raise Conflict.at("path/pool_id", "pool_needed", detail)
    pools.delete(pool_id)


def _cards(pools: RulePools) -> list[PoolCard]:
    cards = []
    for name in sorted(pools.current()):
        try:
            cards.append(card_of(name, pools.pool(name)))
        except PoolMissing as error:
            log.warning("not listed: %s", error)
    return cards


def _unknown() -> NotFound:
    detail = "there is no such pool; GET /rules lists those there are"
    return NotFound.at("path/pool_id", "unknown_pool", detail)

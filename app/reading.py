"""How rows are to be read: what the names in a request stand for now."""

from starlette.concurrency import run_in_threadpool

from app.errors import NotFound, Unavailable, Unprocessable
from app.jobs import roster
from app.rulepools import PoolMissing
from app.schemas.annotate import AnnotateOptions, DirectionOptions
from app.schemas.chunk import Judging, Reading, Ref
from app.schemas.judging import RuleOptions
from app.schemas.problem import FieldProblem
from app.schemas.rules import RulePool
from app.service import Service


async def reading_of(service: Service, options: DirectionOptions) -> Reading:
    """The directions, pools and banks that a request asks for.

    Raises:
        NotFound: one of them is not there, or no worker holds it.
        Unavailable: there is no worker at all.
        Unprocessable: a direction or a rule is asked for that cannot be.
    """
    if not isinstance(options, AnnotateOptions) or not options.judged:
        return Reading(directions=await _directions(service, options), truncate=options.truncate)
    directions = await _directions(service, options) if options.method == "margin" else []
    judging = await _judging(service, options.rules)
    return Reading(directions=directions, truncate=options.truncate, judging=judging)


async def _directions(service: Service, options: DirectionOptions) -> list[Ref]:
    several = not isinstance(options.direction, str)
    pointers = [f"/direction/{i}" if several else "/direction" for i in range(len(options.asked))]
    cards = [await service.direction(name, at) for name, at in zip(options.asked, pointers, strict=True)]
    clash = next((i for i, card in enumerate(cards) if card in cards[:i]), None)
    if clash is not None:
        error = FieldProblem(pointer=pointers[clash], code="same_direction", detail="is named twice: default is one")
        raise Unprocessable("the request is not valid", errors=[error])
    return [Ref(id=card.id, digest=card.digest) for card in cards]


async def _judging(service: Service, options: RuleOptions) -> Judging:
    workers = await service.workers()
    if not workers:
        raise Unavailable("no worker is ready; /readyz says why", headers={"Retry-After": "5"})
    pool = await _pool(service, options)
    bank = _bank(roster.banks(workers), options, pool.digest) if options.rater == "probes" else None
    return Judging(
        pool=Ref(id=options.pool, digest=pool.digest),
        rater=options.rater,
        policy=options.policy,
        k=options.k,
        band=options.band,
        fixed=options.fixed,
        bank=bank,
    )


async def _pool(service: Service, options: RuleOptions) -> RulePool:
    try:
        pool = await run_in_threadpool(service.rule_pools.pool, options.pool)
    except PoolMissing:
        raise _missing("/rules/pool", "unknown_pool", "there is no such pool; GET /rules lists them") from None
    known = {rule.id for rule in pool.rules}
    for place, rule in enumerate(options.fixed or []):
        if rule not in known:
            error = FieldProblem(pointer=f"/rules/fixed/{place}", code="unknown_rule", detail="is no rule of the pool")
            raise Unprocessable("the request is not valid", errors=[error])
    return pool


def _bank(held: list[roster.HeldBank], options: RuleOptions, pool_digest: str) -> Ref:
    """The bank that is asked for, or the newest of the pool."""
    if options.bank is None:
        found = next((bank for bank in held if bank.pool_digest == pool_digest), None)
        if found is None:
            raise _missing("/rules/pool", "no_bank", "no worker holds a bank of probes for this pool as it is now")
    else:
        found = next((bank for bank in held if bank.id == options.bank), None)
        if found is None:
            raise _missing("/rules/bank", "unknown_bank", "no worker holds this bank of probes")
        if found.pool_digest != pool_digest:
            error = FieldProblem(pointer="/rules/bank", code="other_pool", detail="was made for other rules")
            raise Unprocessable("the request is not valid", errors=[error])
    return Ref(id=found.id, digest=found.digest)


def _missing(pointer: str, code: str, detail: str) -> NotFound:
    return NotFound(detail, errors=[FieldProblem(pointer=pointer, code=code, detail=detail)])

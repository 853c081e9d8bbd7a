"""How rows are to be read: what the names in a request stand for now."""

from starlette.concurrency import run_in_threadpool

from app.alignments import AlignmentMissing
from app.errors import NotFound, Unavailable, invalid
from app.jobs.roster import HeldBank, WorkerState
from app.rewards import RewardMissing
from app.ruleadapters import AdapterMissing
from app.rulepools import PoolMissing
from app.schemas.annotate import AnnotateOptions, DirectionOptions
from app.schemas.chunk import Contrasting, Judging, Reading
from app.schemas.judging import RuleOptions
from app.schemas.names import Ref
from app.schemas.ruleadapters import AdapterCard
from app.schemas.rules import RulePool
from app.service import Service

_TOKENS_A_RULE = 32
_TOKENS_A_PAIR = 1024
_TOKENS_AN_INSTRUCTION = 64

_NO_BANK = "no worker holds a bank of probes for this pool as it is now; `safemargin rules distil` makes one"
_UNKNOWN_BANK = "no worker holds this bank of probes; GET /rule-banks lists them"
_OTHER_POOL = "was made for other rules than `pool` has now: name the pool that GET {} says, or make a new one"


async def reading_of(service: Service, options: DirectionOptions) -> Reading:
    """The directions, pools, banks, taught models and reward models that a request asks for.

    Raises:
        NotFound: one of them is not there, or no worker holds it.
        Unavailable: there is no worker at all.
        Unprocessable: a direction or a rule is asked for that cannot be.
    """
    if isinstance(options, AnnotateOptions) and options.alignment is not None:
        contrasting = await _contrasting(service, options.alignment)
        return Reading(directions=[], truncate=options.truncate, contrasting=contrasting)
    if options.reward_model is not None:
        reward_model = await reward_model_of(service, options.reward_model)
        return Reading(directions=[], truncate=options.truncate, reward_model=reward_model)
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
        raise invalid(pointers[clash], "same_direction", "is named twice: default is one")
    return [Ref(id=card.id, digest=card.digest) for card in cards]


async def _contrasting(service: Service, alignment_id: str) -> Contrasting:
    workers = await _some_workers(service)
    try:
        card = await run_in_threadpool(service.alignments.card, alignment_id)
    except AlignmentMissing:
        raise NotFound.at(
            "/alignment", "unknown_alignment", "there is no such taught model; GET /alignments lists them"
        ) from None
    _refuse_other_annotator("/alignment", card.model_revision, workers)
    instructions = 2 * _TOKENS_AN_INSTRUCTION if card.method == "rahf-scit" else 0
    return Contrasting(alignment=Ref(id=card.id, digest=card.digest), instructions=instructions)


async def reward_model_of(service: Service, reward_id: str, at: str = "/reward_model") -> Ref:
    """What the id of a reward model stands for now; `at` says which field asked for it.

    Raises:
        NotFound: nothing.
        Unavailable: there is no worker at all.
    """
    await _some_workers(service)
    try:
        digest = await run_in_threadpool(service.reward_models.digest, reward_id)
    except RewardMissing:
        detail = "there is no such reward model; GET /reward-models lists those there are"
        raise NotFound.at(at, "unknown_reward_model", detail) from None
    return Ref(id=reward_id, digest=digest)


async def _judging(service: Service, options: RuleOptions) -> Judging:
    workers = await _some_workers(service)
    pool = await run_in_threadpool(pool_of, service, options.pool, "/rules")
    _refuse_unknown(options, pool)
    adapter = await run_in_threadpool(_adapter, service, options.adapter, pool.digest, workers)
    return Judging(
        pool=Ref(id=options.pool, digest=pool.digest),
        rater=options.rater,
        policy=options.policy,
        k=options.k,
        band=options.band,
        fixed=options.fixed,
        bank=await held_bank(service, options.bank, pool.digest, "/rules") if options.rater == "probes" else None,
        adapter=Ref(id=adapter.id, digest=adapter.digest) if adapter else None,
        asking=_asking(options, pool, adapter),
    )


def _asking(options: RuleOptions, pool: RulePool, adapter: AdapterCard | None) -> int:
    """Estimated tokens of the questions about a pair."""
    chosen = len(options.fixed) if options.fixed else options.k if adapter else len(pool.rules)
    questions = 2 * chosen * _TOKENS_A_RULE if options.rater == "logits" else 0
    return questions + (_TOKENS_A_PAIR if adapter and adapter.kind == "lora" else 0)


def pool_of(service: Service, pool_id: str, at: str = "") -> RulePool:
    """The pool that a request asks for in the field `pool` of what `at` points to.

    Raises:
        NotFound: there is none.
    """
    try:
        return service.rule_pools.pool(pool_id)
    except PoolMissing:
        raise NotFound.at(f"{at}/pool", "unknown_pool", "there is no such pool; GET /rules lists them") from None


async def held_bank(service: Service, bank_id: str | None, pool_digest: str, at: str = "") -> Ref:
    """The bank of probes that a request asks for in the field `bank` of what `at` points to, or the first of the pool.

    Raises:
        NotFound: no worker holds such a bank.
        Unprocessable: it was made for other rules.
    """
    found = _bank(await service.banks(), bank_id, pool_digest)
    if found is None:
        found = _bank(await service.banks(anew=True), bank_id, pool_digest)  # it may be new
    if found is None and bank_id is None:
        raise NotFound.at(f"{at}/pool", "no_bank", _NO_BANK)
    if found is None:
        raise NotFound.at(f"{at}/bank", "unknown_bank", _UNKNOWN_BANK)
    if found.pool_digest != pool_digest:
        raise invalid(f"{at}/bank", "other_pool", _OTHER_POOL.format("/rule-banks"))
    return Ref(id=found.id, digest=found.digest)


def _bank(held: list[HeldBank], bank_id: str | None, pool_digest: str) -> HeldBank | None:
    wanted = (bank for bank in held if (bank.pool_digest == pool_digest if bank_id is None else bank.id == bank_id))
    return next(wanted, None)


def _adapter(
    service: Service, adapter_id: str | None, pool_digest: str, workers: list[WorkerState]
) -> AdapterCard | None:
    if adapter_id is None:
        return None
    at = "/rules/adapter"
    try:
        card = service.rule_adapters.card(adapter_id)
    except AdapterMissing:
        raise NotFound.at(
            at, "unknown_adapter", "there is no such rule adapter; GET /rule-adapters lists them"
        ) from None
    if card.pool_digest != pool_digest:
        raise invalid(at, "other_pool", _OTHER_POOL.format("/rule-adapters"))
    _refuse_other_annotator(at, card.model_revision, workers)
    return card


async def _some_workers(service: Service) -> list[WorkerState]:
    workers = await service.workers()
    if not workers:
        raise Unavailable("no worker is ready; /readyz says why", headers={"Retry-After": "5"})
    return workers


def _refuse_other_annotator(at: str, model_revision: str, workers: list[WorkerState]) -> None:
    if model_revision not in {worker.model_revision for worker in workers}:
        raise invalid(at, "other_annotator", "was made for another annotator")


def _refuse_unknown(options: RuleOptions, pool: RulePool) -> None:
    known = {rule.id for rule in pool.rules}
    for place, rule in enumerate(options.fixed or []):
        if rule not in known:
            raise invalid(f"/rules/fixed/{place}", "unknown_rule", "is no rule of the pool")

"""What commands load: the annotator, a direction, a reward model, a rule pool, a bank of rule probes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from app.artifacts import Artifacts
from app.registry import Registry
from app.rewards import CARD as REWARD_CARD
from app.rewards import RewardModels
from app.rulebanks import CARD, TENSORS, BankMissing, RuleBanks
from app.rulepools import PoolMissing, RulePools
from app.schemas.annotate import DEFAULT
from app.schemas.judging import SHIPPED_POOL
from app.schemas.names import NAME
from app.schemas.rulebanks import BankCard
from app.schemas.rules import RulePool
from app.settings import settings
from cli.saying import failure

if TYPE_CHECKING:
    from workers.directions.direction import SafetyDirection
    from workers.engine.annotator import Annotator
    from workers.rewards.model import RewardModel
    from workers.rules.bank import RuleBank


def annotator() -> "Annotator":
    """The annotator of the settings, proven to read packed as it reads plainly."""
    from workers.configured import configured_annotator
    from workers.probe import probe

    loaded = configured_annotator(settings())
    probe(loaded)
    return loaded


def direction(named: str, annotator: "Annotator") -> "tuple[SafetyDirection, Annotator]":
    """A direction of the artifact store, or that `default` stands for; the shipped ones are put there first.

    Returns:
        The direction, and what it reads: the annotator, or what that was aligned to.

    Raises:
        typer.Exit: there is none that fits this annotator.
    """
    from workers.holding import NotHeld
    from workers.registry import Holdings, publish_shipped

    artifacts = Artifacts(settings().artifacts_url)
    registry, holdings = Registry(artifacts), Holdings.of(artifacts, annotator)
    publish_shipped(registry, annotator)
    holdings.alignments.refresh()
    holdings.directions.refresh()
    name = registry.defaults().get(annotator.revision, named) if named == DEFAULT else named
    if (found := holdings.directions.all().get(name)) is None:
        raise failure(f"there is no direction {named} for {annotator.name}")
    try:
        variant = holdings.directions.variant(found)
    except NotHeld as error:
        raise failure(str(error)) from error
    return found, variant.annotator if variant else annotator


def reward_model(named: str) -> "RewardModel":
    """A reward model: of a folder, of the store (copied into the home once), or of Hugging Face.

    Raises:
        EngineError: it is not there or cannot be loaded.
        RewardError: it is no reward model.
    """
    from workers.engine.process import set_up
    from workers.rewards.model import load_reward_model

    config, path = settings(), named
    models = RewardModels(Artifacts(config.artifacts_url))
    if re.fullmatch(NAME, named) and not Path(named).is_dir() and models.holds(named):
        digest = models.digest(named)
        folder = config.home_folder / "models" / f"reward-{digest.removeprefix('sha256:')[:16]}" / named
        if not (folder / REWARD_CARD).exists():
            models.fetch(named, digest, folder)
        path = str(folder)
    passes = set_up(config.threads)
    return load_reward_model(path, config.home_folder, device=config.device, dtype=config.dtype, passes=passes)


def rule_pool(pool_id: str) -> RulePool:
    """A pool of the artifact store; the project's own is there even where no worker has stored it yet.

    Raises:
        typer.Exit: there is none.
    """
    from workers.rules.pool import shipped_pool

    try:
        return RulePools(Artifacts(settings().artifacts_url)).pool(pool_id)
    except PoolMissing as error:
        if pool_id == SHIPPED_POOL:
            return shipped_pool()
        raise failure(str(error)) from error


def rules(pool_id: str | None, bank_name: str | None, *, probes: bool) -> tuple[str, RulePool]:
    """Which rules a command is about, and what they are called; no annotator is needed to tell.

    Args:
        pool_id: the pool that is named; where left out that of the bank, and without one the project's own.
        bank_name: id of the bank that is named, or the folder of its files.
        probes: whether a bank has to read them.

    Raises:
        typer.Exit: there is no such pool or bank, or the bank was made for another pool.
    """
    from workers.rules.cards import check_pool, shipped_cards
    from workers.rules.errors import UnusableBank

    try:
        card = _bank_card(bank_name) if bank_name is not None else None
        name = pool_id or (card.pool if card else SHIPPED_POOL)
        pool = rule_pool(name)
        if card is not None:
            check_pool(card, pool, name)
    except UnusableBank as error:
        raise failure(str(error)) from error
    known = [*rule_banks().cards(), *shipped_cards().values()] if probes and card is None else []
    if probes and card is None and not any((c.pool, c.pool_digest) == (name, pool.digest) for c in known):
        raise failure(f"there is no rule bank of {name} as it is now; `safemargin rules distil` makes one")
    return name, pool


def _bank_card(named: str) -> BankCard:
    """The card of a bank: of a folder, of the store, or of those that come with the service.

    Raises:
        UnusableBank: that of a folder cannot be read.
        typer.Exit: there is no such bank.
    """
    from workers.rules.cards import card_in, shipped_cards

    if Path(named).is_dir():
        return card_in(Path(named))
    try:
        return rule_banks().card(named)
    except BankMissing as error:
        shipped = {card.id: card for card in shipped_cards().values()}
        if named not in shipped or rule_banks().holds(named):
            raise failure(f"{error}; `safemargin rules distil` makes one") from error
        return shipped[named]


def rule_banks() -> RuleBanks:
    """The banks of the artifact store."""
    return RuleBanks(Artifacts(settings().artifacts_url))


def rule_bank(named: str | None, pool_id: str, pool: RulePool, reader: "Annotator") -> "RuleBank":
    """A bank that reads these rules with this annotator.

    Args:
        named: its id, or the folder of its files; where left out, the newest of the store that fits, or a shipped one.
        pool_id: what the pool is called.
        pool: the rules.
        reader: the annotator.

    Raises:
        UnusableBank: it is damaged or was made for something else.
        typer.Exit: there is none.
    """
    from workers.rules.bank import check_fits, from_folder, shipped_banks

    if named is not None and Path(named).is_dir():
        bank = from_folder(Path(named))
    else:
        held = rule_banks().current()
        shipped = {bank.id: bank for bank in shipped_banks(reader)}
        name = _newest(pool_id, pool, reader, list(shipped.values())) if named is None else named
        if name not in held and name not in shipped:
            wanted = named or f"of {pool_id} for {reader.name}"
            raise failure(f"there is no rule bank {wanted}; `safemargin rules distil` makes one")
        bank = _stored(name, held[name]) if name in held else shipped[name]
    check_fits(bank, reader, pool, pool_id)
    return bank


def _newest(pool_id: str, pool: RulePool, reader: "Annotator", shipped: list["RuleBank"]) -> str:
    """Id of the newest bank made for this; empty where there is none."""

    def fits(card: BankCard) -> bool:
        made_for = (card.pool, card.pool_digest, card.model_revision, card.template)
        return made_for == (pool_id, pool.digest, reader.revision, reader.template.digest)

    stored = sorted(filter(fits, rule_banks().cards()), key=lambda card: card.created)
    ours = [bank.card for bank in shipped if fits(bank.card)]
    return (stored or ours)[-1].id if stored or ours else ""


def _stored(name: str, digest: str) -> "RuleBank":
    from workers.rules.bank import from_files

    try:
        return from_files(name, {part: rule_banks().part(name, digest, part) for part in (CARD, TENSORS)})
    except BankMissing as error:
        raise failure(str(error)) from error

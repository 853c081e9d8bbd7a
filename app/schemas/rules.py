"""Pools of safety rules as users send and see them."""

import hashlib
import json
import re
from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.schemas.names import PoolId, RuleId
from app.schemas.pairs import PromptText, Strict

MOST_RULES = 512
MOST_WORDS = 60
MOST_CHARACTERS = 600


_CONTROL_LIKE = re.compile(
    r"<[|｜][^<>]{0,64}[|｜]>"  # ChatML, Llama 3, DeepSeek
    r"|\[/?[A-Z_]*(INST|SYS|TOOLS|PROMPT)[A-Z_]*\]|</?<?/?SYS>>"  # Llama 2, Mistral
    r"|</?(s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn)>",  # sentence ends, Gemma
    re.IGNORECASE,
)


def _one_rule(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > MOST_CHARACTERS or len(text.split(" ")) > MOST_WORDS:
        limits = {"words": MOST_WORDS, "characters": MOST_CHARACTERS}
        raise PydanticCustomError("rule_too_long", "must have at most {words} words, {characters} characters", limits)
    if _CONTROL_LIKE.search(text):
        raise PydanticCustomError("control_token", "must hold nothing that looks like a control token of a template")
    return text


RuleText = Annotated[PromptText, AfterValidator(_one_rule)]
Category = Annotated[str, StringConstraints(pattern=r"^\w[\w .,&/-]{0,63}$")]


class Rule(Strict):
    """One thing that a response to a prompt keeps or breaks; keeping it is the safer side."""

    id: RuleId = Field(description="Unique in the pool.")
    category: Category
    text: RuleText = Field(
        description=f"One absolute sentence about one response: {MOST_WORDS} words at most; white space is folded."
    )


class RulePool(Strict):
    """Rules that pairs are judged by."""

    version: Literal[1] = Field(default=1, description="Of this format.")
    rules: list[Rule] = Field(min_length=1, max_length=MOST_RULES)

    @model_validator(mode="after")
    def _different_ids(self) -> Self:
        seen: set[str] = set()
        for place, rule in enumerate(self.rules):
            if rule.id in seen:
                raise PydanticCustomError(
                    "duplicate_rule", "an earlier rule has this id", {"field": f"rules/{place}/id"}
                )
            seen.add(rule.id)
        return self

    @property
    def ordered(self) -> list[Rule]:
        """The rules by id: the order of every vector and matrix that has an entry for each of them."""
        return sorted(self.rules, key=lambda rule: rule.id)

    @property
    def digest(self) -> str:
        """`sha256:` digest of the rules, in whichever order they were sent."""
        rows = [[rule.id, rule.category, rule.text] for rule in self.ordered]
        canonical = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


class NewPool(RulePool):
    """A pool to store."""

    id: PoolId = Field(description="Name of the pool.")
    replace: bool = Field(
        default=False,
        description="Whether other rules of this name may be replaced; banks and adapters of these fit no more.",
    )

    @property
    def pool(self) -> RulePool:
        """The rules alone."""
        return RulePool(version=self.version, rules=self.rules)


class PoolCard(BaseModel):
    """What a pool is."""

    id: PoolId
    digest: str = Field(description="sha256 of its rules; the order in which they were sent does not matter.")
    rules: int
    categories: dict[str, int] = Field(description="How many rules each category has.")


class PoolList(BaseModel):
    """The pools that there are."""

    pools: list[PoolCard]


class Pool(BaseModel):
    """A pool with its rules."""

    id: PoolId
    digest: str
    rules: list[Rule] = Field(description="By id.")


def card_of(pool_id: str, pool: RulePool) -> PoolCard:
    """What a pool is, in figures."""
    categories = Counter(rule.category for rule in pool.rules)
    return PoolCard(id=pool_id, digest=pool.digest, rules=len(pool.rules), categories=dict(sorted(categories.items())))

"""From ratings of pairs to what the rules say of them, as a request asks for it."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import orjson
import torch
from torch import Tensor

from app.schemas.annotate import Raw
from app.schemas.chunk import Judging
from app.schemas.judging import CriticalRule, RuleProvenance, RuleVerdict
from app.schemas.pairs import Pair
from app.schemas.ruleadapters import AdapterCard
from app.schemas.rulebanks import PolicyReading
from app.schemas.rules import Rule, RulePool
from workers.rules.bank import RuleBank
from workers.rules.rating import Ratings
from workers.rules.selection import Evidence, Policy, choose
from workers.rules.verdict import Verdict, verdicts


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of one pair.

    Attributes:
        verdict: for its reader.
        raw: weighted means of the critical rules' scores, before calibration.
        level: the margin in steps, 0 the lowest; None where the bank has no edges.
        truncated: whether the conversation was cut to fit what the rater asks.
    """

    verdict: RuleVerdict
    raw: Raw
    level: int | None
    truncated: bool = False

    @classmethod
    def unasked(cls) -> "Judgement":
        """Of a pair that fits the window, but not with the question about it."""
        verdict = RuleVerdict(margin=0.0, preferred="tie", tie="not_asked", critical=[])
        return cls(verdict, Raw(margin=0.0, chosen=0.0, rejected=0.0), None)


@dataclass(frozen=True)
class Judge:
    """Judges rated pairs.

    Attributes:
        judging: what was asked for.
        pool: the rules, by id.
        bank: the probes that rated, if probes did.
        adapter: the rule adapter that says which rules are critical, if one does.
    """

    judging: Judging
    pool: RulePool
    bank: RuleBank | None
    adapter: AdapterCard | None = None

    @cached_property
    def reading(self) -> PolicyReading | None:
        """The scale of the margins; None if nobody fitted one for exactly this rater, policy and k."""
        asked, adapter = self.judging, self.adapter
        if adapter is None:
            return self.bank.card.reading(asked.policy, asked.k) if self.bank else None
        taught_by = (adapter.rater, adapter.bank_digest, adapter.k)
        return adapter.reading if taught_by == (asked.rater, self.bank and self.bank.digest, asked.k) else None

    @property
    def unreliable(self) -> bool:
        """Whether nothing shows that the margins read better than chance."""
        return self.reading is None or self.reading.accuracy.low <= 0.5

    @property
    def provenance(self) -> RuleProvenance:
        """What exactly judges."""
        asked, bank, adapter = self.judging, self.judging.bank, self.judging.adapter
        return RuleProvenance(
            pool=asked.pool.id,
            pool_digest=asked.pool.digest,
            rater=asked.rater,
            bank=bank.id if bank else None,
            bank_digest=bank.digest if bank else None,
            policy=asked.policy,
            k=asked.k,
            band=asked.band,
            adapter=adapter.id if adapter else None,
            adapter_digest=adapter.digest if adapter else None,
            calibrated=self.reading is not None,
            rules=self.bank.card.used if self.bank else len(self.pool.rules),
        )

    def judge(self, pairs: Sequence[Pair], ratings: Sequence[Ratings], likely: Tensor | None) -> list[Judgement]:
        """One judgement a pair.

        Args:
            pairs: P of them.
            ratings: of each, the chosen response first.
            likely: [P, R] what a rule adapter says, for that policy.
        """
        if not pairs:
            return []
        scores = torch.stack([rated.scores for rated in ratings])
        relevance = torch.stack([rated.relevance for rated in ratings])
        evidence = Evidence(
            differences=scores[:, 0] - scores[:, 1],
            relevance=relevance,
            noise=self.bank.noise.to(scores) if self.bank else None,
            correlation=self.bank.correlation.to(scores) if self.bank else None,
            seeds=torch.tensor([seed_of(pair) for pair in pairs]),
            likely=likely,
            used=self.bank.used if self.bank else None,
        )
        choice = choose(Policy(self.judging.policy, self.judging.k, self.fixed), evidence)
        slope = self.reading.slope if self.reading else 1.0
        found = verdicts(scores, relevance, choice, slope=slope, band=self.judging.band)
        sides = torch.einsum("pr,psr->ps", choice.weights, scores).tolist()
        return [
            replace(self._judgement(verdict, *side), truncated=rated.truncated)
            for verdict, side, rated in zip(found, sides, ratings, strict=True)
        ]

    @cached_property
    def _rules(self) -> list[Rule]:
        return self.pool.ordered

    @cached_property
    def fixed(self) -> list[int]:
        """Places of the rules named for the policy `fixed`."""
        places = {rule.id: place for place, rule in enumerate(self._rules)}
        return [places[rule] for rule in self.judging.fixed or []]

    def _judgement(self, verdict: Verdict, chosen: float, rejected: float) -> Judgement:
        rules = self._rules
        critical = [
            CriticalRule(
                rule=rules[part.rule].id,
                category=rules[part.rule].category,
                text=rules[part.rule].text,
                chosen=part.chosen,
                rejected=part.rejected,
                relevance=part.relevance,
                contribution=part.contribution,
            )
            for part in verdict.contributions
        ]
        if verdict.tie == "no_relevant_rule":
            chosen = rejected = 0.0
        raw = Raw(margin=chosen - rejected, chosen=chosen, rejected=rejected)
        shown = RuleVerdict(
            margin=verdict.margin, preferred=verdict.side, tie=verdict.tie, critical=critical, rest=verdict.rest
        )
        edges = self.reading.level_edges if self.reading else []
        return Judgement(shown, raw, bisect_right(edges, verdict.margin) if edges else None)


def seed_of(pair: Pair) -> int:
    """What `random` draws by: the content of a pair, whichever side is which."""
    prompt = [[message.role, message.content] for message in pair.messages]
    content = orjson.dumps([prompt, sorted([pair.chosen, pair.rejected])])
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest())

"""What travels through the queue: a chunk of a job out, its answers back."""

from pydantic import BaseModel

from app.schemas.annotate import Annotation, FailedAnnotation, Method, Provenance
from app.schemas.judging import PolicyName, RaterName
from app.schemas.names import Ref, RuleId
from app.schemas.pairs import Pair
from app.schemas.rewarding import Query, Rewarded
from app.schemas.score import Candidates, ScoredCandidates


class Judging(BaseModel):
    """How rows are judged by rules.

    Attributes:
        pool: the rules.
        rater, policy, k, band, fixed: as `RuleOptions` has them.
        bank: the probes, for that rater.
        adapter: the rule adapter, for that policy.
        asking: estimated tokens that judging a pair costs beside reading it; zero for probes in the same pass.
    """

    pool: Ref
    rater: RaterName
    policy: PolicyName
    k: int
    band: float
    fixed: list[RuleId] | None = None
    bank: Ref | None = None
    adapter: Ref | None = None
    asking: int = 0


class Contrasting(BaseModel):
    """How rows are judged by what a taught model says itself, which reads every pair in two ways.

    Attributes:
        alignment: the taught model.
        instructions: estimated tokens of both instructions.
    """

    alignment: Ref
    instructions: int = 0


class Reading(BaseModel):
    """How the rows of a job are read; the same for every chunk.

    Attributes:
        directions: those to project on, the main one first; none where only rules or another model are asked.
        truncate: whether prompts that do not fit are cut.
        judging: the rules, where they are asked.
        contrasting: the taught model, where it is asked.
        reward_model: the reward model, where it is asked.
        contributions: whether to say what every token contributes.
    """

    directions: list[Ref]
    truncate: bool
    judging: Judging | None = None
    contrasting: Contrasting | None = None
    reward_model: Ref | None = None
    contributions: bool = False

    @property
    def asks(self) -> bool:
        """Whether a pair costs more than to be read in a shared pass."""
        return self.contrasting is not None or (self.judging is not None and self.judging.asking > 0)

    def cost(self, estimated: int, pairs: int = 1) -> int:
        """Estimated tokens of all that is computed for some pairs.

        Args:
            estimated: of the pairs, read once.
            pairs: how many there are.
        """
        if self.contrasting is not None:
            return 2 * estimated + pairs * self.contrasting.instructions
        readings = 2 if self.contributions else 1
        return readings * estimated + pairs * (self.judging.asking if self.judging else 0)

    @property
    def method(self) -> Method:
        """What the margin is."""
        if self.contrasting is not None:
            return "rahf"
        if self.reward_model is not None:
            return "reward"
        return "margin" if self.directions else "rules"


class Chunk(Reading):
    """Pairs, responses to order, or whole dialogues that a worker reads together; every one carries an id.

    Attributes:
        items: what to read.
        lines: where each stands in what the user sent, from 1.
        tokens: estimated tokens of all of them.
    """

    items: list[Pair | Candidates | Query]
    lines: list[int]
    tokens: int

    def part(self, rows: range) -> "Chunk":
        """Some of its items."""
        inside = slice(rows.start, rows.stop)
        return self.model_copy(update={"items": self.items[inside], "lines": self.lines[inside]})


class ChunkAnswer(BaseModel):
    """Answers to a chunk in the order of its items."""

    entries: list[Annotation | ScoredCandidates | Rewarded | FailedAnnotation]
    lines: list[int]
    provenance: Provenance

    def counts(self) -> tuple[int, int]:
        """How many items were answered, and how many failed."""
        failed = sum(isinstance(entry, FailedAnnotation) for entry in self.entries)
        return len(self.entries) - failed, failed

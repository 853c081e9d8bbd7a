"""What a pass can read instead of the annotator: what it became when it was taught something."""

from dataclasses import dataclass

from workers.engine.annotator import Annotator
from workers.engine.lora import LowRank, adapted


@dataclass(frozen=True, eq=False)
class Variant:
    """An annotator that was changed.

    Attributes:
        annotator: the changed one.
        adapter: what changed it, on the weights of the annotator that there was before; None where it has its own.
    """

    annotator: Annotator
    adapter: LowRank | None

    @classmethod
    def of(cls, annotator: Annotator, adapter: LowRank) -> "Variant":
        """An annotator with an adapter.

        Raises:
            UnusableAdapter: it does not have the shape of the annotator.
        """
        return cls(adapted(annotator, adapter), adapter)

    @property
    def revision(self) -> str:
        """Which weights exactly."""
        return self.annotator.revision

"""Why the engine refuses.

    EngineError
    ├── ModelNotLoaded      the annotator cannot be found, read or run
    ├── UnusableAdapter     a low-rank adapter is damaged or does not fit the annotator
    └── PairRefused         one pair cannot be scored; its neighbours can
        ├── TooLong         it does not fit the annotator's window
        ├── TemplateRefused the chat template does not accept its roles
        ├── NotFinite       its activations are not finite numbers
        └── Unscorable      the forward pass fails on it even alone

Every PairRefused carries a stable `code`, a `detail` without any of the pair's text, and the counts that explain it.
"""


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class ModelNotLoaded(EngineError):
    """The annotator cannot be found, read or run as asked."""


class UnusableAdapter(EngineError):
    """A low-rank adapter is damaged, hostile or made for another annotator."""


class PairRefused(EngineError):
    """One pair cannot be scored."""

    code = "refused"

    def __init__(self, detail: str, **counts: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.counts = counts


class TooLong(PairRefused):
    """The prompt with a response is longer than the annotator's window."""

    code = "too_long"


class TemplateRefused(PairRefused):
    """The annotator's chat template does not accept this sequence of roles."""

    code = "template_refused"


class NotFinite(PairRefused):
    """The annotator's activations for this pair are not finite numbers."""

    code = "not_finite"


class Unscorable(PairRefused):
    """The forward pass fails on this pair even alone."""

    code = "forward_failed"


def refusal_of(error: Exception) -> PairRefused:
    """What to answer for a pair on which the forward pass failed with this error."""
    if isinstance(error, PairRefused):
        return error
    return Unscorable(f"the annotator fails on this pair ({type(error).__name__})")

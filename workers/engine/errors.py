"""Why the engine refuses.

    EngineError
    ├── ModelNotLoaded      the annotator cannot be found, read or run
    ├── PassFailed          a forward pass in another process raised something
    ├── UnusableAdapter     a low-rank adapter is damaged or does not fit the annotator
    └── PairRefused         one pair cannot be scored; its neighbours can
        ├── TooLong         it does not fit the annotator's window
        ├── TemplateRefused the chat template does not accept its roles
        ├── NotFinite       its activations are not finite numbers
        ├── OutOfMemory     the device's memory does not suffice for it even alone
        └── Unscorable      the forward pass fails on it even alone

Every PairRefused carries a stable `code`, a `detail` without any of the pair's text, and the counts that explain it.

    DeviceLost              no pair's fault: nothing more can be computed in this process
"""


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class ModelNotLoaded(EngineError):
    """The annotator cannot be found, read or run as asked."""


class PassFailed(EngineError):
    """A forward pass in another process raised something, whose name this carries."""


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


class OutOfMemory(PairRefused):
    """The memory of the annotator's device does not suffice for this pair even alone."""

    code = "out_of_memory"


class Unscorable(PairRefused):
    """The forward pass fails on this pair even alone."""

    code = "forward_failed"


def refusal_of(error: Exception) -> PairRefused:
    """What to answer for a pair on which the forward pass failed with this error."""
    if isinstance(error, PairRefused):
        return error
    name = str(error) if isinstance(error, PassFailed) else type(error).__name__
    return Unscorable(f"the annotator fails on this pair ({name})")


class DeviceLost(BaseException):
    """What computes for this process failed for good (a CUDA device, a process of forward passes); it has to end.

    No Exception, so that nobody who answers for one pair, one chunk or one job takes it for the fault of that.
    """

"""Why a rater cannot be made or used.

RuleError
├── UnfitExamples    the examples cannot give a bank of probes
├── UnusableBank     a stored bank is damaged or was made for something else
└── CannotAsk        the annotator has no words to answer with
"""


class RuleError(Exception):
    """Base of everything this room raises on purpose."""


class UnfitExamples(RuleError):
    """The examples cannot give a bank of probes."""


class UnusableBank(RuleError):
    """A stored bank is damaged, hostile or made for another annotator or pool."""


class CannotAsk(RuleError):
    """The annotator's vocabulary cannot tell the answers apart by their first token."""

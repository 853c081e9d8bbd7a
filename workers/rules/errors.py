"""Why a rater cannot be made or used.

RuleError
├── UnfitExamples    the examples cannot give a bank of probes
├── UnusableBank     a stored bank is damaged or was made for something else
├── UnfitPairs       the pairs cannot tell how well anything reads
└── CannotAsk        the annotator has no words to answer with
"""


class RuleError(Exception):
    """Base of everything this room raises on purpose."""


class UnfitExamples(RuleError):
    """The examples cannot give a bank of probes."""


class UnusableBank(RuleError):
    """A stored bank is damaged, hostile or made for another annotator or pool."""


class UnfitPairs(RuleError):
    """Too few labelled pairs can be read to tell how well anything reads them."""


class CannotAsk(RuleError):
    """The annotator's vocabulary cannot tell the answers apart by their first token."""

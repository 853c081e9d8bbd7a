"""Why a rater cannot be made or used.

RuleError
├── UnfitExamples    the examples cannot give a bank of probes, or the pairs a rule adapter
├── UnusableBank     a stored bank is damaged or was made for something else
├── UnfitPairs       the pairs cannot tell how well anything reads
├── UnusableAdapter  a stored rule adapter is damaged or was made for something else
├── CannotAsk        the annotator has no words to answer with
└── CannotClassify   the annotator's architecture has no sequence classifier
"""


class RuleError(Exception):
    """Base of everything this room raises on purpose."""


class UnfitExamples(RuleError):
    """The examples cannot give a bank of probes, or the pairs a rule adapter."""


class UnusableBank(RuleError):
    """A stored bank is damaged, hostile or made for another annotator or pool."""


class UnfitPairs(RuleError):
    """Too few labelled pairs can be read to tell how well anything reads them."""


class UnusableAdapter(RuleError):
    """A stored rule adapter is damaged, hostile or made for another annotator or pool."""


class CannotAsk(RuleError):
    """The annotator's vocabulary cannot tell the answers apart by their first token."""


class CannotClassify(RuleError):
    """The annotator is of an architecture that no sequence classifier is made of."""

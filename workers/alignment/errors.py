"""Why a model cannot be taught or aligned, or a taught one not be used.

AlignmentError
├── UnfitData          the pairs teach nothing
├── Diverged           the loss became no finite number
├── UnusableSettings   settings that cannot be read or do not go together
├── OtherRun           a folder holds a stage that was run with something else
├── Unfinished         a stage that another one needs is not finished
└── UnusableAlignment  a taught model of the shelf is damaged or was made for something else
"""


class AlignmentError(Exception):
    """Base of everything this room raises on purpose."""


class UnfitData(AlignmentError):
    """Too few pairs can be read to teach or align anything with them."""


class Diverged(AlignmentError):
    """The loss became no finite number."""


class UnusableSettings(AlignmentError):
    """Settings cannot be read, or do not go together or with the annotator; says which, a line each."""


class OtherRun(AlignmentError):
    """The folder holds a stage that was run with other settings, data or models; says which differ."""


class Unfinished(AlignmentError):
    """A stage is not finished that another one needs; names it."""


class UnusableAlignment(AlignmentError):
    """A taught model of the shelf is damaged, or was made for another annotator."""

"""Why a reward model cannot be trained, used or measured.

RewardError
├── UnfitRows        the rows teach or measure nothing
├── Diverged         the loss became no finite number
├── OtherTraining    a folder holds what was made with something else
└── UnusableModel    no reward model, or nothing that one can be made of
"""


class RewardError(Exception):
    """Base of everything this room raises on purpose."""


class UnfitRows(RewardError):
    """A file cannot be read, or its rows teach or measure nothing; names the line, never its text."""


class Diverged(RewardError):
    """The loss became no finite number."""


class OtherTraining(RewardError):
    """The folder holds a training with other settings, data or model; says which differ."""


class UnusableModel(RewardError):
    """What is there is no reward model, or none can be made of it."""

"""Why a direction cannot be made or used.

DirectionError
├── UnfitData        the data cannot give a direction
└── UnusableFile     a stored direction is damaged or was made for something else
"""


class DirectionError(Exception):
    """Base of everything this room raises on purpose."""


class UnfitData(DirectionError):
    """The data cannot give a direction: too few pairs, no variation, not finite."""


class UnusableFile(DirectionError):
    """A stored direction is damaged, hostile or made for another annotator."""

"""The HTTP side of Safemargin: accepts preference pairs, queues them, answers with margins. Imports no torch."""

from importlib.metadata import version

__version__ = version("safemargin")

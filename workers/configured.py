"""The annotator that the settings ask for."""

from app.settings import Settings
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.process import cores, set_up
from workers.engine.sizing import find_budget


def configured_annotator(config: Settings, processes: int = 1) -> Annotator:
    """Prepare this process for forward passes and load the annotator.

    Args:
        config: names the model, the device and how many threads to use.
        processes: how many of them share the cores where no number of threads is set.

    Raises:
        EngineError: the model cannot be loaded.
    """
    passes = set_up(config.threads or max(1, cores() // processes))
    home, device, dtype = config.home_folder, config.device, config.dtype
    annotator = load_annotator(config.model, home, device=device, dtype=dtype, passes=passes)
    find_budget(annotator)
    return annotator

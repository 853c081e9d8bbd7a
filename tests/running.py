"""The whole service as processes of its own, with a tiny annotator instead of the real one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.artifacts import Artifacts
from app.registry import Registry
from app.settings import Settings
from cli.stack import Stack
from tests.conftest import publish, random_direction, tiny_annotator
from workers.engine.annotator import load_annotator

DIRECTION = "tiny"


def tiny_model(folder: Path) -> Path:
    """A tiny annotator as users bring their own: a folder."""
    made = tiny_annotator()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


def home_with_models(factory: pytest.TempPathFactory) -> Path:
    """A new `SAFEMARGIN_HOME` with the user's converted models, and the cache of fits with others of this run."""
    folder = factory.mktemp("home")
    shared = {"models": Path("~/.safemargin/models").expanduser(), "cache": factory.getbasetemp() / "cache"}
    for name, place in shared.items():
        place.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(place)
    return folder


@contextmanager
def running(model: Path, home: Path, **settings: str) -> Iterator[Stack]:
    """The service from when it is ready; its logs are in the folder of the stack."""
    environment = {"SAFEMARGIN_MODEL": str(model), "SAFEMARGIN_HOME": str(home), "SAFEMARGIN_DTYPE": "float32"}
    annotator = load_annotator(str(model), home, dtype="float32")
    registry = Registry(Artifacts(str(home)))
    publish(registry, random_direction(annotator, DIRECTION, slope=1.0, level_edges=[0.0], unreliable=False))
    registry.set_default(annotator.revision, DIRECTION)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment | settings).items():
            patch.setenv(name, value)
        with Stack(Settings(port=0), quiet=True) as stack:
            stack.wait_until_ready()
            yield stack

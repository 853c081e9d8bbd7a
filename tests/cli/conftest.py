"""A home of the tests' own: nothing of the user's is read or written but the converted annotator."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new `SAFEMARGIN_HOME` that shares the user's converted models."""
    folder = tmp_path_factory.mktemp("home")
    models = Path("~/.safemargin/models").expanduser()
    models.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(models)
    return folder

"""Whoever does what the pages say gets what the pages say, from the real service."""

import shutil
from collections.abc import Iterator

import pytest

from app.alignments import Alignments
from app.artifacts import Artifacts
from app.settings import Settings
from tests.docs.reader import ROOT, Reader
from tests.running import home_with_models
from tests.workers.alignment.shelf import put
from workers.engine.annotator import load_annotator

PAGES = ("README.md", "docs/api.md", "docs/rules.md")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here, which the pages ask with"),
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One reader of all pages, who starts each service once, in a home where the annotator has been taught before."""
    home = home_with_models(tmp_path_factory)
    default = Settings.model_fields["model"].default  # not what another test's service may have set
    put(Alignments(Artifacts(str(home))), load_annotator(default, home), "taught")
    made = Reader(tmp_path_factory.mktemp("reader"), home)
    yield made
    made.close()


@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_what_is_so(reader: Reader, page: str) -> None:
    reader.read((ROOT / page).read_text())

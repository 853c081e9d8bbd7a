"""The page on operations names every metric that there is, and no other."""

import re

from prometheus_client import CollectorRegistry

from app.metrics import Metrics
from tests.docker.conftest import ROOT
from workers.metrics import WorkerMetrics


def names(registry: CollectorRegistry) -> set[str]:
    families = [family for family in registry.collect() if family.name.startswith("safemargin_")]
    return {family.name + "_total" * (family.type == "counter") for family in families}


def test_the_page_names_every_metric() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    named = re.findall(r"^- (`safemargin_\w+`(?:, `safemargin_\w+`)*):", section, re.MULTILINE)
    documented = [name for cell in named for name in re.findall(r"\w+", cell)]
    assert len(documented) == len(set(documented))
    assert set(documented) == names(Metrics().registry) | names(WorkerMetrics().registry)

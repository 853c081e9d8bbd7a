"""What fitting costs beside one forward pass over the same pairs: the algebra, cross-validation and report included."""

import argparse
import json
import statistics
import time
from pathlib import Path

from app.schemas.fit import FitRequest, PairsSource
from app.settings import settings
from workers.configured import configured_annotator
from workers.directions.datafiles import read_pairs
from workers.directions.fit import candidate_layers, fit
from workers.directions.gather import POOLINGS
from workers.engine.forward import read_each
from workers.engine.sites import Site

RESULTS = Path(__file__).with_name("results")
_FEW = 60


def main() -> None:
    """Measure, print, write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="JSONL of labelled pairs")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    config = settings()
    annotator = configured_annotator(config)
    pairs = read_pairs(options.data)[: options.pairs]
    groups = [annotator.template.encode(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
    sites = [Site(layer, pooling) for layer in candidate_layers(annotator.depth) for pooling in POOLINGS]
    request = FitRequest(id="timed", sources=[PairsSource(recipe="pairs", pairs=pairs)])
    cache = config.home_folder / "cache"
    few = FitRequest(id="few", sources=[PairsSource(recipe="pairs", pairs=pairs[:_FEW])])
    fit(annotator, few, cache=cache)  # the balance set is read once for an annotator, not once a fit
    forward, whole = [], []
    for _ in range(options.rounds):
        started = time.perf_counter()
        for _index, _reading in read_each(annotator, groups, sites):
            pass
        forward.append(time.perf_counter() - started)
        started = time.perf_counter()
        fit(annotator, request, cache=cache)
        whole.append(time.perf_counter() - started)
    figures = {
        "annotator": annotator.name,
        "pairs": len(pairs),
        "forward_seconds": statistics.median(forward),
        "fit_seconds": statistics.median(whole),
        "ratio": statistics.median(whole) / statistics.median(forward),
    }
    print(json.dumps(figures, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fitting.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""How soon a service answers after its start: the API, and the first worker, from an annotator converted before.

python -m benchmarks.starting
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import httpx

from app.settings import settings
from benchmarks.machine import described
from cli.stack import Stack
from workers.engine.weights import locate

RESULTS = Path(__file__).with_name("results")
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 120.0


def main() -> None:
    """Measure, print, write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = settings().model_copy(update={"port": 0})
    locate(config.model, config.home_folder)
    found: dict[str, list[float]] = {"/livez": [], "/readyz": []}
    for _ in range(options.rounds):
        begun = time.monotonic()
        with Stack(config, quiet=True) as stack:
            for path, seconds in found.items():
                seconds.append(_answered(stack.url + path, begun))
    medians = {path: statistics.median(seconds) for path, seconds in found.items()}
    print(", ".join(f"{path} {median:.2f} s" for path, median in medians.items()), "after the start (medians)")
    RESULTS.mkdir(exist_ok=True)
    plain = {"machine": described(), "rounds": options.rounds, "median_seconds": medians, "seconds": found}
    (RESULTS / "starting.json").write_text(json.dumps(plain, indent=2) + "\n")


def _answered(url: str, begun: float) -> float:
    """Seconds from `begun` until a first 200.

    Raises:
        TimeoutError: there is none.
    """
    while time.monotonic() - begun < _PATIENCE_SECONDS:
        try:
            if httpx.get(url, trust_env=False).status_code == httpx.codes.OK:
                return time.monotonic() - begun
        except httpx.TransportError:
            pass
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"no answer from {url}")


if __name__ == "__main__":
    main()

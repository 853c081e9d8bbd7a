"""The example pairs, and how the tests of the real command line start it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

EXAMPLES = Path(__file__).parents[2] / "examples" / "pairs.jsonl"
PAIRS: list[dict[str, Any]] = [orjson.loads(line) for line in EXAMPLES.read_bytes().splitlines()]
SAFEMARGIN = [sys.executable, "-m", "cli"]
PATIENCE = 300


def varied(count: int) -> list[dict[str, Any]]:
    """That many pairs to fit on: the examples, over and over in other words."""
    made = []
    for i in range(count):
        pair, asked = PAIRS[i % len(PAIRS)], f"Question {i + 1}. "
        turns = pair["prompt"] if isinstance(pair["prompt"], list) else [{"role": "user", "content": pair["prompt"]}]
        prompt = [{**turns[0], "content": asked + turns[0]["content"]}, *turns[1:]]
        made.append({**pair, "id": str(i), "prompt": prompt, "chosen": f"{pair['chosen']} ({i})"})
    return made


def environment(home: Path, **changes: str) -> dict[str, str]:
    """This environment without the user's settings, with a home of the tests' own."""
    own = {k: v for k, v in os.environ.items() if k != "REDIS_URL" and not k.startswith("SAFEMARGIN_")}
    return own | {"PORT": "0", "SAFEMARGIN_HOME": str(home)} | changes


def ended_well(home: Path, store: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command with an artifact store of its own, which has come to its end without a fault."""
    ended = subprocess.run(
        [*SAFEMARGIN, *arguments],
        env=environment(home, SAFEMARGIN_ARTIFACTS=str(store), COLUMNS="200"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended

"""The script for a GPU, on a CPU with small shapes: other sizes, the same code."""

import json
import subprocess
import sys
from pathlib import Path

import benchmarks


def test_every_way_reads_what_the_reference_reads(tmp_path: Path) -> None:
    script = Path(benchmarks.__file__).with_name("gpu.py")
    command = [sys.executable, "-I", str(script), "--tiny", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    (table,) = json.loads((tmp_path / "gpu.json").read_text())["tables"]
    assert [row["way"] for row in table["rows"]] == ["published", "padded", "ours"]
    assert all(row["largest_distance"] < 0.05 for row in table["rows"])
    assert (tmp_path / "gpu.md").read_text() in run.stdout

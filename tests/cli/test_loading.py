"""What is refused before torch is loaded, let alone the annotator."""

import os
import subprocess
import sys
from pathlib import Path

REFUSED = """
import sys
from typer.testing import CliRunner
from cli.main import app
for line in sys.stdin.read().splitlines():
    ended = CliRunner().invoke(app, line.split())
    assert ended.exit_code in (1, 2) and "Error" not in repr(ended.exception), (line, ended.output, ended.exception)
    assert "torch" not in sys.modules, line
"""

LINES = """\
rules distil --id a --pool nowhere
rules distil --id a --from hearsay
rules distil --id no/id
rules distil --id a --from exchanges:nowhere.jsonl
rules distil --id a --from rows:nowhere.jsonl
rules evaluate nowhere.jsonl
rules evaluate pairs.jsonl --pool nowhere
rules evaluate pairs.jsonl --bank nothing
rules evaluate pairs.jsonl --policy adapter
rules evaluate pairs.jsonl --k five
rules evaluate pairs.jsonl --plot plot.txt
rules evaluate pairs.jsonl --out no/such/folder.json
train rule-adapter pairs.jsonl --id a --kind tail
train rule-adapter pairs.jsonl --id a --pool nowhere
train rule-adapter pairs.jsonl --id a --bank nothing
train rule-adapter nowhere.jsonl --id a
annotate pairs.jsonl -o out.jsonl --method rahf --alignment nobody
annotate pairs.jsonl -o out.jsonl --method rahf
"""


def test_what_needs_no_annotator_to_be_refused_does_not_wait_for_one(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    root = str(Path(__file__).parents[2])
    env = os.environ | {"SAFEMARGIN_HOME": str(tmp_path), "SAFEMARGIN_ARTIFACTS": "store", "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", REFUSED], input=LINES, text=True, cwd=tmp_path, env=env, check=True)

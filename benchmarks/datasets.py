"""Public safety data sets in their own formats, as the JSONL files that directions are fitted on.

    python -m benchmarks.datasets FOLDER OUT

FOLDER holds some of `gptfuzz-judge/` (train.csv, evaluate.csv, question_list.csv), `safetext/SafeText.json`,
`diasafety/train.json` and `hh-harmless/pairs.jsonl`; OUT gets one file for each. Nothing of them is in this repository.
"""

import argparse
import csv
import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

_SEED = 0
Row = dict[str, object]


def main() -> None:
    """Convert what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gptfuzz-per-question", type=int, default=8, help="responses kept of each question")
    parser.add_argument("--diasafety-rows", type=int, default=2000, help="responses kept")
    options = parser.parse_args()
    folder: Path = options.folder
    options.out.mkdir(parents=True, exist_ok=True)
    if (folder / "hh-harmless").is_dir():
        shutil.copy(folder / "hh-harmless" / "pairs.jsonl", options.out / "hh-harmless.jsonl")
    if (folder / "gptfuzz-judge").is_dir():
        _write(options.out / "gptfuzz.jsonl", gptfuzz(folder / "gptfuzz-judge", options.gptfuzz_per_question))
    if (folder / "safetext").is_dir():
        _write(options.out / "safetext.jsonl", safetext(folder / "safetext" / "SafeText.json"))
    if (folder / "diasafety").is_dir():
        _write(options.out / "diasafety.jsonl", diasafety(folder / "diasafety" / "train.json", options.diasafety_rows))


def gptfuzz(folder: Path, per_question: int) -> Iterable[Row]:
    """Responses to harmful questions, half of them unsafe where there are enough; label 1 is safe."""
    with (folder / "question_list.csv").open(newline="") as file:
        questions = {row["index"]: row["text"] for row in csv.DictReader(file)}
    sides: dict[str, tuple[list[str], list[str]]] = {}
    for name in ("train.csv", "evaluate.csv"):
        with (folder / name).open(newline="") as file:
            for row in csv.DictReader(file):
                sides.setdefault(row["question"], ([], []))[int(row["label"])].append(row["Response"])
    source = random.Random(_SEED)
    for question, answers in sides.items():
        for label, responses in zip((1, 0), answers, strict=True):
            for response in source.sample(responses, min(per_question // 2, len(responses))):
                yield {"prompt": questions.get(question, question), "response": response, "label": label}


def safetext(path: Path) -> Iterable[Row]:
    """Safe and unsafe continuations of situations."""
    for situation, sides in json.loads(path.read_bytes()).items():
        for name, label in (("safe", 1), ("unsafe", 0)):
            yield from ({"prompt": situation, "response": text, "label": label} for text in sides[name])


def diasafety(path: Path, count: int) -> Iterable[Row]:
    """Responses in dialogue."""
    rows = json.loads(path.read_bytes())
    for row in random.Random(_SEED).sample(rows, min(count, len(rows))):
        yield {"prompt": row["context"], "response": row["response"], "label": int(row["label"] == "Safe")}


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()

"""What the playground's scripts reckon, without a service: scales, bins, contributions, streams and the queue."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.app.playground.conftest import Open

README = Path(__file__).parents[3] / "README.md"
Run = Callable[..., Any]


@pytest.fixture
def run(visit: Open) -> Run:
    """The value of an expression about one script's exports `m` and an argument `x`."""
    page = visit()

    def evaluate(module: str, expression: str, argument: Any = None) -> Any:
        code = f"async (x) => {{ const m = await import('/playground/{module}.js'); return {expression}; }}"
        return page.evaluate(code, argument)

    return evaluate


def test_numbers_are_written_with_their_sign_and_as_many_decimals_as_they_need(run: Run) -> None:
    values = [1.234, -0.5, 0, 0.0123, -0.00456, 1e-9]
    assert run("scales", "x.map(m.signed)", values) == ["+1.23", "−0.50", "0.00", "+0.012", "−0.0046", "0.0000"]
    assert run("scales", "x.map(m.probability)", [0.001, 0.5, 0.876, 0.999]) == ["< .01", ".50", ".88", "> .99"]


def test_the_logistic_does_not_overflow(run: Run) -> None:
    found = run("scales", "x.map(m.logistic)", [-1000, -1, 0, 1, 1000])
    assert found == pytest.approx([0, 1 / (1 + math.e), 0.5, 1 / (1 + 1 / math.e), 1])


def test_a_scale_has_zero_in_its_middle_and_holds_its_value(run: Run) -> None:
    assert run("scales", "[0, 2.9, -3.1, 100].map((v) => m.reach(v))") == [3, 3, 6, 192]
    assert run("scales", "m.ticks(6)") == [-6, -4, -2, 0, 2, 4, 6]
    assert run("scales", "[-9, -6, 0, 3].map((v) => m.place(v, 6))") == [0, 0, 0.5, 0.75]


@pytest.mark.parametrize(
    "margins",
    [
        [-1.2, -0.1, 0.0, 0.3, 2.0],
        [0.5, 0.6, 4.0],
        [-3.0, -2.5],
        [1.0],
        [0.0, 0.0],
        [-1e-12, 1e-12],
        [-0.001, *[5] * 999],
    ],
    ids=["both", "positive", "negative", "one", "zeros", "tiny", "one conflict"],
)
def test_bins_count_every_margin_on_its_side_of_zero(run: Run, margins: list[float]) -> None:
    bins = run("histogram", "m.bins(x)", margins)
    assert sum(part["count"] for part in bins) == len(margins)
    assert sum(part["count"] for part in bins if part["high"] <= 0) == sum(margin < 0 for margin in margins)
    assert all(a["high"] == pytest.approx(b["low"]) for a, b in pairwise(bins))
    assert len(bins) <= 34


def test_an_outlier_does_not_make_all_other_bins_thin(run: Run) -> None:
    bins = run("histogram", "m.bins(x)", [*(i / 1000 for i in range(1000)), 1e6])
    assert bins[-1]["high"] < 2


def test_the_median_of_an_even_number_lies_in_between(run: Run) -> None:
    assert run("histogram", "[m.median([3, 1, 2]), m.median([4, 1]), m.median([])]") == [2, 2.5, None]


TOKENS = [
    [{"text": "A", "contribution": 0.4}, {"text": " b", "contribution": -0.1}, {"text": None, "contribution": 0.3}],
    [{"text": "C", "contribution": 0.2}, {"text": None, "contribution": -0.2}],
    [{"text": None, "contribution": 0.7}],
]


def test_centred_contributions_keep_every_difference(run: Run) -> None:
    centred, plain = run("contributions", "[m.centred(x), m.plain(x)]", TOKENS)
    totals, before = [sum(own) for own in centred], [sum(own) for own in plain]
    assert sum(totals) == pytest.approx(0)
    assert [a - totals[0] for a in totals] == pytest.approx([b - before[0] for b in before])
    assert plain[0] == [0.4, -0.1, 0.3]


def test_the_strongest_token_has_the_full_colour_and_nothing_divides_by_zero(run: Run) -> None:
    assert run("contributions", "m.strengths([[1, -4], [0]])") == [[0.5, 1], [0]]
    assert run("contributions", "m.strengths([[0], []])") == [[0], []]


def test_tokens_may_be_very_many(run: Run) -> None:
    tokens = "[Array.from({ length: 300_000 }, () => ({ text: 'a', contribution: -1 }))]"
    assert run("contributions", f"m.strengths(m.plain({tokens})).flat().every((one) => one === 1)")
    assert run("dom", "m.h('p', {}, Array.from({ length: 300_000 }, () => 'a')).textContent.length") == 300_000


def test_tokens_are_grouped_to_words(run: Run) -> None:
    tokens = [{"text": text} for text in ("lock", "smith", " ", "na", "", "ïve", None)]
    found = run("contributions", "m.words(x, [1, 2, 4, 8, 16, 32, 64])", tokens)
    assert [(word["text"], word["value"]) for word in found] == [("locksmith", 3), (" naïve", 60), (None, 64)]


def test_streams_are_cut_where_their_parts_end_however_they_come(run: Run) -> None:
    pieces = ['{"a"', ': 1}\n{"a": 2}\n', '{"a": 3}']
    expression = "(() => { const s = new m.Splitter('\\n'); return [...x.flatMap((p) => s.push(p)), ...s.end()]; })()"
    assert run("streams", expression, pieces) == ['{"a": 1}', '{"a": 2}', '{"a": 3}']
    assert run("streams", "m.parseEvent('event: end\\ndata: {}')") == {"event": "end", "data": "{}"}
    assert run("streams", "m.parseEvent(': still there')") is None


QUEUE = """
(() => {
  let kept = [];
  const store = { read: () => kept, write: (log) => (kept = JSON.parse(JSON.stringify(log))) };
  const conflicts = [{ line: 2, margin: -1 }, { line: 5, margin: -3 }, { line: 9, margin: -2 }];
  const queue = new m.ReviewQueue(conflicts, store);
  const seen = [];
  const look = () => seen.push(queue.current?.line ?? null);
  look();
  queue.decide("flip", "Ada", "now"); look();
  queue.decide("keep", "Ada", "now"); look();
  queue.undo(); look();
  queue.decide("skip", "Ada", "now"); look();
  const again = new m.ReviewQueue(conflicts, store);
  const before = again.current.line;
  again.decide("keep", "Bob", "later");
  const nothing = again.decide("keep", "Bob", "later");
  return { seen, before, after: again.current, counts: again.counts, nothing, kept };
})()
"""


def test_the_queue_begins_with_the_strongest_conflict_and_forgets_nothing(run: Run) -> None:
    found = run("queue", QUEUE.strip())
    assert found["seen"] == [5, 9, 2, 9, 2]
    assert (found["before"], found["after"], found["nothing"]) == (2, None, None)
    assert found["counts"] == {"total": 3, "decided": 3, "keep": 1, "flip": 1, "skip": 1}
    made = [(own["line"], own["decision"], own["by"]) for own in found["kept"]]
    assert made == [(5, "flip", "Ada"), (9, "skip", "Ada"), (2, "keep", "Bob")]


def test_a_flipped_row_has_its_responses_exchanged_and_its_margin_negated(run: Run) -> None:
    raw = {"line": 4, "annotation": {"id": "x", "label_conflict": True}}
    trainer = {"prompt": [], "chosen": [{"content": "C"}], "rejected": [{"content": "R"}], "margin": -1.5}
    made = {"decision": "flip", "by": "Ada", "at": "now"}
    flipped, left = run(
        "queue", "[m.reviewedRow(...x, {decision: 'flip', by: 'Ada', at: 'now'}), m.reviewedRow(...x)]", [raw, trainer]
    )
    assert (flipped["chosen"], flipped["rejected"], flipped["margin"]) == ("R", "C", 1.5)
    assert (flipped["label_conflict"], flipped["review"]) == (False, made)
    assert (left["chosen"], left["margin"], left["label_conflict"], left["review"]) == ("C", -1.5, True, None)


def test_damaged_decisions_do_not_stop_the_review(run: Run) -> None:
    expression = "m.kept('j', { get: () => x }).read()"
    assert [run("queue", expression, text) for text in ("{", '{"a": 1}', None, "[1]")] == [[], [], [], [1]]


STORAGE = """
(() => {
  const taken = new Map();
  let full = false;
  const own = {
    getItem: (name) => taken.get(name) ?? null,
    setItem(name, text) { if (full) throw new Error("full"); taken.set(name, text); },
    removeItem: (name) => taken.delete(name),
  };
  const storage = m.keeping(() => own);
  const seen = [];
  const look = () => seen.push([storage.get("a"), storage.loses("a"), taken.get("a") ?? null]);
  look();
  storage.set("a", "1"); look();
  full = true;
  storage.set("a", "2"); look();
  full = false;
  storage.set("a", "3"); look();
  storage.forget("a"); look();
  return seen;
})()
"""


def test_what_the_browser_does_not_take_is_remembered_until_it_does(run: Run) -> None:
    assert run("storage", STORAGE.strip()) == [
        [None, False, None],
        ["1", False, "1"],
        ["2", True, "1"],
        ["3", False, "3"],
        [None, False, None],
    ]


def test_the_first_example_is_the_one_of_the_readme(run: Run) -> None:
    first = run("examples", "m.PAIRS[0]")
    readme = README.read_text()
    assert all(first[field] in readme for field in ("prompt", "chosen", "rejected"))


def test_rows_of_the_example_file_have_ids_of_their_own_and_some_have_their_labels_exchanged(run: Run) -> None:
    rows, pairs = run("examples", "[m.exampleRows(), m.PAIRS]")
    assert len({row["id"] for row in rows}) == len(rows) > 50
    assert len({(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in rows}) == len(rows)
    wrong = next(pair for pair in pairs if pair["name"] == "A label that looks wrong")
    same = [row for row in rows if row["prompt"] == wrong["prompt"]]
    assert wrong["chosen"] in {row["chosen"] for row in same}
    assert wrong["rejected"] in {row["chosen"] for row in same}

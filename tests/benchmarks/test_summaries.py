from pathlib import Path

import pytest

from benchmarks import summaries
from benchmarks.summaries import Latency, Spread, markdown, percentile, save


def test_a_percentile_lies_between_its_neighbours() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert percentile(values, 0.0) == 1.0
    assert percentile(values, 0.5) == 2.5
    assert percentile(values, 1.0) == 4.0
    assert percentile([7.0], 0.99) == 7.0


def test_a_spread_is_the_median_and_how_far_the_others_lie() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(median=3.0, lowest=1.0, highest=10.0)


def test_latencies_are_in_milliseconds() -> None:
    latency = Latency.of([second / 1000 for second in range(101)])
    assert (latency.p50, latency.p95, latency.p99) == pytest.approx((50, 95, 99))


def test_a_markdown_table_is_a_table_to_the_eye() -> None:
    assert markdown(("way", "pairs/s"), [("ours | theirs", "2.0")]).splitlines() == [
        "| way           | pairs/s |",
        "| ------------- | ------: |",
        "| ours / theirs |     2.0 |",
    ]


def test_figures_and_page_are_saved_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "RESULTS", tmp_path / "results")
    save("speed", {"pairs": 2}, "# Speed\n")
    assert (tmp_path / "results" / "speed.json").read_text() == '{\n  "pairs": 2\n}\n'
    assert (tmp_path / "results" / "speed.md").read_text() == "# Speed\n"

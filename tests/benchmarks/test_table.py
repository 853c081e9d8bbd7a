from dataclasses import astuple

import pytest

from benchmarks.summaries import Spread
from benchmarks.table import Measured, as_cells, as_markdown, rows_of

PUBLISHED = Measured("published script", layers=4, work=100, seconds=[10.0, 20.0, 40.0], peak_mib=512.0)
OURS = Measured("HTTP 64 clients", layers=2, work=30, seconds=[1.0, 2.0, 4.0], latencies=[0.1, 0.3], refused=3)
ABSENT = Measured("llama.cpp prefill", layers=4, work=90, note="not installed")


def test_a_row_is_compared_with_the_first_and_with_the_ceiling() -> None:
    first, second = rows_of([PUBLISHED, OURS], pairs=8, tokens=400, ceiling=50.0)
    assert first.ratio == 1
    assert second.ratio == 10
    assert second.pairs_per_second == Spread(median=4.0, lowest=2.0, highest=8.0)
    assert second.tokens_per_second == 200
    assert second.ceiling_share == pytest.approx(30 / 2 / 50)
    assert second.latency_ms is not None
    assert astuple(second.latency_ms) == pytest.approx((200, 290, 298))


def test_ratios_are_taken_round_by_round_as_a_slow_round_slows_everybody() -> None:
    slowed = Measured("engine", layers=2, work=30, seconds=[2.0, 2.0, 12.0])
    first, second = rows_of([PUBLISHED, slowed], pairs=8, tokens=400, ceiling=50.0)
    assert (first.ratio, second.ratio) == (1, 5)  # of 5, 10 and 3.3; of the medians it would be 10


def test_a_way_that_is_not_there_says_so_in_its_row() -> None:
    _, absent = rows_of([PUBLISHED, ABSENT], pairs=8, tokens=400, ceiling=50.0)
    assert as_cells(absent)[:3] == ["llama.cpp prefill", "4", "not installed"]


def test_the_page_says_who_was_asked_to_come_later() -> None:
    page = as_markdown(rows_of([PUBLISHED, OURS], pairs=8, tokens=400, ceiling=50.0))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    assert ["published script", "4", "0.40", "0.20–0.80", "20", "10%", "512", "–", "1.0×"] in cells
    assert "HTTP 64 clients: 3 requests were asked to come later." in page

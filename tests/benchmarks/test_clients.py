import pytest

from benchmarks.clients import Lone


def test_what_http_adds_to_a_lone_pair_is_found_pair_by_pair_over_all_rounds() -> None:
    lone = Lone([0.11, 0.21], [0.10, 0.19])
    lone.add(Lone([0.56], [0.50]))
    assert lone.milliseconds() == pytest.approx({"http": 210, "forward": 190, "added": 20})

from pathlib import Path

import pytest

from benchmarks.apart import Apart, peak_mib


@pytest.fixture
def words() -> "Apart":
    return Apart(list, ("b", "a"))


def test_an_object_lives_in_a_process_of_its_own(words: Apart) -> None:
    assert words.seconds("sort") >= 0
    words.seconds("remove", "a")
    with pytest.raises(ValueError, match="not in list"):
        words.seconds("remove", "a")
    words.close()
    assert not Path(f"/proc/{words.pid}").exists()


def test_its_peak_memory_is_its_own(words: Apart) -> None:
    before = peak_mib(words.pid)
    words.seconds("extend", bytes(4 << 20))
    assert peak_mib(words.pid) > before + 16
    words.close()

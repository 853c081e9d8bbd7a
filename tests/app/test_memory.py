"""Memory of this process and of those that it starts."""

import subprocess
import sys

from app.memory import available_bytes, resident_bytes

_MANY = 64 << 20


def test_what_is_taken_counts_until_it_is_given_back() -> None:
    before = resident_bytes()
    held = bytearray(b"x") * _MANY
    assert resident_bytes() - before > 0.8 * len(held)
    del held
    assert resident_bytes() - before < 0.5 * _MANY


def test_the_memory_of_children_counts() -> None:
    code = f"held = bytearray(b'x') * {_MANY}; print('taken', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        before = resident_bytes()
        child.stdout.readline()
        with_child = resident_bytes()
        child.communicate(b"\n")
    assert with_child - min(before, resident_bytes()) > 0.8 * _MANY


def test_there_is_more_than_is_taken() -> None:
    assert resident_bytes() < available_bytes()

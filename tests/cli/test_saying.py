"""What commands say while they work."""

import io

import pytest
from rich.console import Console

from cli import saying


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    monkeypatch.setattr(saying, "Console", lambda **_given: console)
    with saying.stages() as show:
        show("instruct", 0, 2, None)
        show("instruct", 1, 2, 0.5)
        show("instruct", 2, 2, 0.25)
        show("collect", 1, 7, None)
    return out.getvalue()


def test_stages_are_bars_with_their_last_loss_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    last = shown(monkeypatch, terminal=True).split("instruct")[-1]
    assert "2/2" in last
    assert "loss 0.250" in last
    assert "collect" in last
    assert "1/7" in last


def test_elsewhere_a_line_tells_of_every_stage_and_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False).splitlines() == ["instruct 0/2", "instruct 2/2 loss 0.250", "collect 1/7"]

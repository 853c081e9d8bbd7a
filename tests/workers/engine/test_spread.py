"""An annotator spread over cards: accelerate carries activations from layer to layer, and readings stay the same.

Its hooks are real here; that all of its cards are the CPU is made up.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.conftest import DEPTH, encode
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.answers import next_token
from workers.engine.errors import ModelNotLoaded
from workers.engine.forward import read
from workers.engine.generate import greedy_answers
from workers.engine.reference import TOLERANCES, disagreement, read_plainly
from workers.engine.sites import Site
from workers.rules.adapting.grafting import graft
from workers.rules.errors import CannotClassify

SITES = [Site(1, "mean"), Site(3, "last"), Site(DEPTH, "end_of_turn")]


@pytest.fixture
def folder(annotator: Annotator, tmp_path: Path) -> Path:
    annotator.model.save_pretrained(tmp_path / "tiny")
    annotator.tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def spreading(monkeypatch: pytest.MonkeyPatch, **elsewhere: str) -> list[object]:
    """Let models be loaded as onto two cards, some parts elsewhere; returns which maps are asked for."""
    asked: list[object] = []
    load = AutoModelForCausalLM.from_pretrained

    def spread(path: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        asked.append(options.pop("device_map"))
        model, report = load(path, **options)
        parts = ["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"]
        parts += [f"model.layers.{layer}" for layer in range(DEPTH)]
        dispatch_model(model, dict.fromkeys(parts, "cpu"), force_hooks=True)
        model.hf_device_map = {part: number % 2 for number, part in enumerate(parts)} | elsewhere
        return model, report

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spread)
    return asked


def test_it_reads_answers_and_speaks_as_on_one_device(
    annotator: Annotator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spreading(monkeypatch)
    spread = load_annotator(str(folder), folder.parent, device="balanced", dtype="float32")
    assert asked == ["balanced"]
    groups = [encode(spread, "How do I sharpen a knife?", "Slowly.", "no"), encode(spread, "hi", "ho")]
    assert disagreement(read(spread, groups, SITES), read_plainly(annotator, groups, SITES)) <= TOLERANCES["float32"]
    assert disagreement(read(spread, groups, SITES), read_plainly(spread, groups, SITES)) <= TOLERANCES["float32"]
    torch.testing.assert_close(next_token(spread, groups), next_token(annotator, groups))
    prompts = [group.prefix for group in groups]
    assert greedy_answers(spread, prompts, max_new_tokens=3) == greedy_answers(annotator, prompts, max_new_tokens=3)


def test_a_model_larger_than_all_cards_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spreading(monkeypatch, lm_head="cpu")
    with pytest.raises(ModelNotLoaded, match="the CUDA devices together are too small for it: a part would be on cpu"):
        load_annotator(str(folder), folder.parent, device="balanced", dtype="float32")


def test_without_cards_there_is_nothing_to_spread_it_over(folder: Path) -> None:
    with pytest.raises(ModelNotLoaded, match="there is no CUDA device"):
        load_annotator(str(folder), folder.parent, device="balanced", dtype="float32")


def test_the_last_of_its_devices_is_where_the_output_is(annotator: Annotator) -> None:
    assert annotator.devices == (torch.device("cpu"),)
    *blocks, norm = (nn.Linear(1, 1, device=place) for place in ("cpu", "cpu", "meta", "meta", "cpu"))
    spread = replace(annotator)
    spread.__dict__.update(blocks=blocks, final_norm=norm)
    assert spread.devices == (torch.device("meta"), torch.device("cpu"))


def test_no_classifier_is_grafted_onto_it(annotator: Annotator) -> None:
    spread = replace(annotator)
    spread.__dict__["devices"] = (torch.device("cuda:0"), torch.device("cuda:1"))
    with pytest.raises(CannotClassify, match="lies on 2 devices"):
        graft(spread, 3, 2, torch.Generator())

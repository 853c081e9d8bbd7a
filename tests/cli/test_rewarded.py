"""The whole service as a user starts it, asked for the rewards of a reward model, also as OpenRLHF's client asks."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from app.artifacts import Artifacts
from app.registry import Registry
from app.rewards import RewardModels
from app.settings import Settings
from cli.stack import Stack
from tests.conftest import publish, random_direction, tiny_annotator
from tests.workers.rewards.shelf import classifier, put, ref_to
from workers.engine.annotator import load_annotator

PAIR = {"prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}
ASKED = [{"role": "user", "content": PAIR["prompt"]}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return classifier(tmp_path / "classifier")


@pytest.fixture
def service(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A service whose worker has two processes of forward passes, and a reward model in its store."""
    made = tiny_annotator()
    made.model.save_pretrained(tmp_path / "tiny")
    made.tokenizer.save_pretrained(tmp_path / "tiny")
    model = load_annotator(str(tmp_path / "tiny"), tmp_path, dtype="float32")
    environment = {"MODEL": str(tmp_path / "tiny"), "HOME": str(tmp_path), "DTYPE": "float32", "THREADS": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(f"SAFEMARGIN_{name}", value)
    store = Artifacts(str(tmp_path))
    put(RewardModels(store), folder)
    publish(Registry(store), random_direction(model, "plain"))
    Registry(store).set_default(model.revision, "plain")
    with Stack(Settings(port=0), quiet=True) as stack:
        stack.wait_until_ready()
        yield stack


@pytest.mark.real
def test_rewards_are_those_of_plain_transformers_however_they_are_asked_for(
    service: Stack, folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        str(tokenizer.apply_chat_template([*ASKED, {"role": "assistant", "content": PAIR[side]}], tokenize=False))
        for side in ("chosen", "rejected")
    ]
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        inputs = [tokenizer(text, return_tensors="pt", add_special_tokens=False) for text in texts]
        expected = [float(plain(**one).logits) for one in inputs]
    card = RewardModels(Artifacts(str(tmp_path))).card("mine")
    asked = {"method": "reward", "reward_model": "mine"}
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        annotated = client.post("/annotate", json={"pairs": [PAIR], **asked}).json()
        rewarded = client.post(
            "/reward-models/mine/reward", json={"query": texts, "prompts": [PAIR["prompt"]] * 2}
        ).json()
        file = client.post("/files", content=json.dumps(PAIR)).json()["id"]
        job = client.post("/jobs", json={"file": file, **asked}).json()["id"]
        assert client.get(f"/jobs/{job}", params={"wait": 30}).json()["status"] == "completed"
        (row,) = client.get(f"/jobs/{job}/results").text.splitlines()
    raw = annotated["annotations"][0]["raw"]
    assert [raw["chosen"], raw["rejected"]] == pytest.approx(expected, abs=1e-4)
    assert rewarded["rewards"] == pytest.approx(expected, abs=1e-4)
    assert json.loads(row)["annotation"]["margin"] == pytest.approx(expected[0] - expected[1], abs=2e-4)
    assert annotated["provenance"]["reward_model"] == ref_to(card).model_dump()

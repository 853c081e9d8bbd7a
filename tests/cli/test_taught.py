"""The whole service as a user starts it, with a direction of a taught model, which processes of forward passes read."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.alignments import Alignments
from app.artifacts import Artifacts
from app.registry import Registry
from app.settings import Settings
from cli.stack import Stack
from tests.conftest import encode, publish, random_direction, tiny_annotator
from tests.workers.alignment.shelf import put, random_adapter, taught_direction
from workers.engine.annotator import Annotator, load_annotator
from workers.engine.forward import read
from workers.engine.lora import adapted

PAIR = {"id": "a", "prompt": "How do I pick a lock?", "chosen": "Ask a locksmith.", "rejected": "Bend two hairpins."}


@pytest.fixture
def model(tmp_path: Path) -> Annotator:
    """A tiny annotator as users bring their own: a folder."""
    folder, made = tmp_path / "tiny", tiny_annotator()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return load_annotator(str(folder), tmp_path, dtype="float32")


@pytest.fixture
def service(model: Annotator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A service whose worker has two processes of forward passes."""
    environment = {"MODEL": str(tmp_path / "tiny"), "HOME": str(tmp_path), "DTYPE": "float32", "THREADS": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(f"SAFEMARGIN_{name}", value)
    store = Artifacts(str(tmp_path))
    card = put(Alignments(store), model, method="rahf-dual")
    publish(Registry(store), random_direction(model, "plain"), taught_direction(model, card))
    Registry(store).set_default(model.revision, "plain")
    with Stack(Settings(port=0), quiet=True) as stack:
        stack.wait_until_ready()
        yield stack


@pytest.mark.real
def test_base_and_taught_models_annotate_side_by_side(service: Stack, model: Annotator) -> None:
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        read_by = client.post("/annotate", json={"pairs": [PAIR], "direction": ["kindly", "plain"]}).json()
        said = client.post("/annotate", json={"pairs": [PAIR], "method": "rahf", "alignment": "kinder"}).json()
        assert client.get("/readyz").status_code == 200
    group = encode(model, PAIR["prompt"], PAIR["chosen"], PAIR["rejected"])
    models = {"kindly": adapted(model, random_adapter(model)), "plain": model}
    (entry,), first = read_by["annotations"], read_by["provenance"]
    told = {first["direction"]: first} | {other["direction"]: other for other in first["others"]}
    direction = random_direction(model, "plain")  # the other one has the same vectors
    for name, own in models.items():
        assert told[name]["model_revision"] == own.revision
        scores = direction.scores(read(own, [group], direction.reads)).tolist()
        assert entry["directions"][name]["raw"]["chosen"] == pytest.approx(scores[0], abs=1e-4)
    assert said["annotations"][0]["raw"]["margin"] != 0
    assert said["provenance"]["alignment"]["id"] == "kinder"

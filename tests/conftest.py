"""A tiny annotator made on the spot: real architecture and tokenizer, random weights, nothing downloaded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from app.artifacts import Artifacts
from app.registry import Registry
from app.schemas.directions import SiteCard
from app.schemas.names import Ref
from app.schemas.pairs import Message
from app.schemas.rulebanks import Auc, BankCard, ProbeCard
from app.schemas.rules import Rule, RulePool
from workers.annotate import PairAnnotator
from workers.batcher import Batcher
from workers.directions.direction import SafetyDirection, known, new_direction
from workers.directions.files import to_files
from workers.engine import attention
from workers.engine.annotator import Annotator, assemble
from workers.engine.crew import reader
from workers.engine.packing import Group
from workers.engine.sites import Site
from workers.metrics import WorkerMetrics
from workers.orders.rewards import Base
from workers.registry import Holdings
from workers.rules.bank import Probes, RuleBank, sealed

torch.set_num_threads(1)  # such small products only lose by sharing

WINDOW = 256
DEPTH = 4
DEFAULT_SYSTEM = "Be kind."
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.1,  # large enough that attention moves the residual stream, so that a wrong mask shows
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


NO_BASE = Base("./nowhere", Path("nowhere"), "cpu")
"""Of a worker that nobody asks for a reward model."""


def tiny_tokenizer(chat_template: str | None = CHATML, eos_token: str | None = "<|im_end|>") -> PreTrainedTokenizerBase:
    """Byte-level BPE with a few merges and the two control tokens of ChatML."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(["How do I sharpen a kitchen knife? I can't help with that request."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token=eos_token, chat_template=chat_template
    )


def tiny_annotator(
    family: Any = LlamaConfig,
    *,
    dtype: torch.dtype = torch.float32,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
    **settings: Any,
) -> Annotator:
    """An annotator of the architecture `family`; the same seed gives the same weights."""
    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    config = family(**_SHAPE | {"vocab_size": len(tokenizer)} | settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    return assemble("tiny", "sha256:tiny", model.to(dtype).eval().requires_grad_(False), tokenizer)


def user(text: str) -> list[Message]:
    """A conversation of one user turn."""
    return [Message(role="user", content=text)]


def encode(annotator: Annotator, prompt: str, *responses: str) -> Group:
    """A prompt of one user turn with its responses."""
    return annotator.template.encode(user(prompt), responses)


def random_direction(
    annotator: Annotator, direction_id: str, seed: int = 0, *sites: Site, **measured: object
) -> SafetyDirection:
    """A direction that fits the annotator; the same seed gives the same vectors."""
    places = sites or (Site(2, "mean"), Site(1, "end_of_turn"))
    vectors = torch.randn(len(places), annotator.width, generator=torch.Generator().manual_seed(seed))
    model = (annotator.name, annotator.revision, annotator.template.digest)
    return known(new_direction(direction_id, places, vectors, model=model, recipe="by hand", settings={}), **measured)


RULES = RulePool(
    rules=[
        Rule(id="calm", category="tone", text="The response stays calm."),
        Rule(id="honest", category="honesty", text="The response says nothing that is not true."),
        Rule(id="kind", category="tone", text="The response is kind to the user."),
        Rule(id="unread", category="honesty", text="The response names its sources."),
    ]
)
"""A pool of four rules; no bank can read the last one."""


def random_bank(annotator: Annotator, bank_id: str = "probes", seed: int = 0, **card: object) -> RuleBank:
    """A bank for `RULES` that fits the annotator; the same seed gives the same probes."""
    source = torch.Generator().manual_seed(seed)
    sites, prompt_sites, count = (Site(2, "mean"), Site(1, "end_of_turn")), (Site(1, "request"),), len(RULES.rules)

    def probes(places: int) -> Probes:
        vectors = torch.randn(count, places, annotator.width, generator=source)
        return Probes(vectors, torch.ones(count), torch.zeros(count))

    area = Auc(value=0.9, low=0.8, high=1.0, above=8, below=8)
    rules = [
        ProbeCard(rule=rule.id, keeps=area, relevant=area, noise=0.4, used=rule.id != "unread")
        for rule in RULES.ordered
    ]
    made = BankCard(
        id=bank_id,
        digest="",
        pool="tiny-rules",
        pool_digest=RULES.digest,
        model=annotator.name,
        model_revision=annotator.revision,
        template=annotator.template.digest,
        sites=[SiteCard(layer=site.layer, pooling=site.pooling) for site in sites],
        prompt_sites=[SiteCard(layer=site.layer, pooling=site.pooling) for site in prompt_sites],
        rules=rules,
        source="exchanges",
        protocol="by hand",
        created="2026-01-01T00:00:00+00:00",
        version="0",
    ).model_copy(update=card)
    noise, correlation = torch.full((count,), 0.4), torch.eye(count)
    return sealed(RuleBank(made, sites, prompt_sites, probes(2), probes(3), noise, correlation))


def publish(registry: Registry, *directions: SafetyDirection) -> None:
    """Store what a worker needs of these directions."""
    for direction in directions:
        registry.publish(direction.id, direction.card.digest, to_files(direction))


def ref(direction: SafetyDirection) -> Ref:
    """What a chunk calls a direction."""
    return Ref(id=direction.id, digest=direction.card.digest)


@contextmanager
def serving(annotator: Annotator, store: Path, *directions: SafetyDirection) -> Iterator[PairAnnotator]:
    """A worker's annotation, with its forward stage on a thread, that holds these directions from a store."""
    artifacts, metrics = Artifacts(str(store)), WorkerMetrics()
    publish(Registry(artifacts), *directions)
    held = Holdings.of(artifacts, annotator)
    held.refresh()
    with reader(annotator) as read:
        batcher = Batcher(read, annotator.budget, metrics)
        thread = threading.Thread(target=batcher.run, daemon=True)
        thread.start()
        yield PairAnnotator(annotator, held, batcher, metrics)
        batcher.close()
        thread.join()


@pytest.fixture(scope="session")
def annotator() -> Annotator:
    """A tiny Llama in fp32: 4 blocks, width 32, a window of 256 tokens."""
    return tiny_annotator()

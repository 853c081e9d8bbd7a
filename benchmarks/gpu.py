"""What an annotation costs on one CUDA device. A script by itself: `python3 gpu.py` needs torch and transformers only.

Pairs are random tokens, as long as those of HH-harmless are with SmolLM2's tokenizer: the lengths of prompts are
lognormal with a median of 96 tokens (σ 0.83, 24 to 860), those of responses with one of 31 (σ 0.91, 1 to 557). All
ways read the same pairs in the same run and take turns:

- published: fp32, one sequence at a time, every hidden state and the vocabulary's logits;
- padded: bf16 batches sorted by length and padded on the right, every hidden state, no logits;
- ours: bf16, every prompt once, tokens packed without padding, FlexAttention with block masks, nothing behind half
  the layers.

`--tiny` proves the same code in seconds on a CPU.
"""

import argparse
import copy
import json
import platform
import random
import statistics
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, LlamaConfig

SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True,
    ),
    "Llama-3.2-3B": dict(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
        vocab_size=128256, tie_word_embeddings=True,
    ),
    "Llama-3.1-8B": dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, tie_word_embeddings=False,
    ),
    "tiny": dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, tie_word_embeddings=True, initializer_range=0.1,
    ),
}  # fmt: skip
_CONVERTED = "~/.safemargin/models/SmolLM2-135M-Instruct-*"
_BLOCK = 128
_ROWS = 32


@dataclass(frozen=True)
class Pair:
    """Tokens of a prompt and of its two responses."""

    prompt: list[int]
    responses: tuple[list[int], list[int]]

    @property
    def size(self) -> int:
        """Tokens, the prompt once."""
        return len(self.prompt) + sum(map(len, self.responses))

    @property
    def sequences(self) -> list[list[int]]:
        """Both whole sequences."""
        return [self.prompt + response for response in self.responses]


@dataclass(frozen=True)
class Layout:
    """A packed batch: every prompt, then its responses, then padding up to a multiple of the block.

    Attributes:
        begins: for every token, where its pair begins; padding begins with itself.
        tokens, positions: [T]; a response's positions continue from the end of its prompt.
        group, branch: [T] pair of each token, and 0 in a prompt, 1 or 2 in a response.
        owner: [T] which response of the batch a token belongs to; one more than there are for all others.
        lengths: [n] of the responses.
    """

    begins: list[int]
    tokens: Tensor
    positions: Tensor
    group: Tensor
    branch: Tensor
    owner: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, pairs: Sequence[Pair], multiple: int, device: torch.device) -> "Layout":
        """Lay pairs out in the order given."""
        columns = [array("q") for _ in range(5)]
        begins: list[int] = []
        others = 2 * len(pairs)
        for g, pair in enumerate(pairs):
            begins += [len(begins)] * pair.size
            for b, part in enumerate((pair.prompt, *pair.responses)):
                count, first = len(part), len(pair.prompt) if b else 0
                owner = 2 * g + b - 1 if b else others
                values = (part, range(first, first + count), [g] * count, [b] * count, [owner] * count)
                for column, more in zip(columns, values, strict=True):
                    column.extend(more)
        padding = -len(begins) % multiple
        for column, value in zip(columns, (0, 0, len(pairs), 0, others), strict=True):
            column.extend([value] * padding)
        columns.append(array("q", [len(response) for pair in pairs for response in pair.responses]))
        sent = [moved(torch.frombuffer(column, dtype=torch.int64), device) for column in columns]
        return cls([*begins, *range(len(begins), len(begins) + padding)], *sent)

    def pooled(self, hidden: Tensor) -> Tensor:
        """[n, d] mean activation of each response from [T, d]."""
        sums = torch.zeros(len(self.lengths) + 1, hidden.shape[1], device=hidden.device)
        return sums.index_add_(0, self.owner, hidden.float())[:-1] / self.lengths[:, None]


def moved(x: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what it computes."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def attention(layout: Layout, compiled: bool) -> Attend:
    """FlexAttention: a token sees what came before it in its own prompt and, in a response, in that response."""
    group, branch = layout.group, layout.branch

    def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (branch[k] == 0) | (branch[k] == branch[q])
        return (q >= k) & (group[q] == group[k]) & own

    first, steps = torch.tensor(layout.begins[::_BLOCK]) // _BLOCK, torch.arange(len(layout.begins) // _BLOCK)
    counts, indices = steps + 1 - first, (first[:, None] + steps).clamp(max=len(steps) - 1)
    counts, indices = (moved(table.int(), group.device)[None, None] for table in (counts, indices))
    mask = BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=_BLOCK, mask_mod=sees)
    attend: Any = _compiled_flex if compiled else flex_attention
    return lambda q, k, v, scale: attend(q, k, v, block_mask=mask, scale=scale, enable_gqa=True)


_compiled_flex = torch.compile(flex_attention)
_attend: list[Attend] = []


def _packed(module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **options: Any) -> tuple[Tensor, None]:
    """What transformers calls instead of attention of its own."""
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    return _attend[-1](query, key, value, scale).transpose(1, 2), None


AttentionInterface.register("packed", _packed)
AttentionMaskInterface.register("packed", lambda *_arguments, **_options: None)


class Bench:
    """One model in fp32 and in bf16, and the ways of reading pairs with it.

    Attributes:
        exact: the fp32 model.
        fast: the same weights in bf16.
        half: how many layers a direction read at half depth needs.
    """

    def __init__(self, name: str, weights: Path | None, device: torch.device, budget: int) -> None:
        torch.manual_seed(0)
        if weights:
            model = AutoModelForCausalLM.from_pretrained(weights).float().to(device)
        else:
            config = LlamaConfig(**SHAPES[name], max_position_embeddings=8192, rms_norm_eps=1e-5)
            with device:
                model = AutoModelForCausalLM.from_config(config).float()
        self.exact: Any = model.eval().requires_grad_(False)
        rounded = {id(p): torch.nn.Parameter(p.bfloat16(), requires_grad=False) for p in self.exact.parameters()}
        self.fast: Any = copy.deepcopy(self.exact, rounded)
        self.half = self.exact.config.num_hidden_layers // 2
        self._device, self._budget = device, budget

    def published(self, pairs: Sequence[Pair]) -> Tensor:
        """[2n, d], as all ways: mean activations of the responses after half the layers."""
        self.exact.set_attn_implementation("sdpa")
        rows = []
        for pair in pairs:
            for sequence, response in zip(pair.sequences, pair.responses, strict=True):
                states = self.exact(torch.tensor([sequence], device=self._device), output_hidden_states=True)
                rows.append(states.hidden_states[self.half][0, -len(response) :].mean(0))
        return torch.stack(rows)

    def padded(self, pairs: Sequence[Pair]) -> Tensor:
        """Batches of `_ROWS` sequences of about the same length."""
        self.fast.set_attn_implementation("sdpa")
        sequences = [sequence for pair in pairs for sequence in pair.sequences]
        lengths = [len(response) for pair in pairs for response in pair.responses]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        found = torch.empty(len(sequences), self.fast.config.hidden_size, device=self._device)
        for start in range(0, len(order), _ROWS):
            rows = order[start : start + _ROWS]
            wide = max(len(sequences[i]) for i in rows)
            ids = torch.tensor([sequences[i] + [0] * (wide - len(sequences[i])) for i in rows], device=self._device)
            ends = torch.tensor([[len(sequences[i])] for i in rows], device=self._device)
            begins = ends - torch.tensor([[lengths[i]] for i in rows], device=self._device)
            steps = torch.arange(wide, device=self._device)
            options: dict[str, Any] = {"attention_mask": (steps < ends).long(), "use_cache": False}
            states = self.fast.model(ids, output_hidden_states=True, **options).hidden_states[self.half]
            share = ((steps >= begins) & (steps < ends)) / (ends - begins)
            found[rows] = torch.einsum("bt,btd->bd", share, states.float())
        return found

    def ours(self, pairs: Sequence[Pair]) -> Tensor:
        """Packed batches of at most the budget, stopped behind the layer that is read."""
        self.fast.set_attn_implementation("packed")
        compiled = self._device.type == "cuda"
        found = torch.empty(2 * len(pairs), self.fast.config.hidden_size, device=self._device)
        for batch in _batches(pairs, self._budget):
            layout = Layout.of([pairs[i] for i in batch], 8 * _BLOCK if compiled else _BLOCK, self._device)
            _attend.append(attention(layout, compiled))
            hidden = self._stopped(layout)
            _attend.pop()
            found[[row for i in batch for row in (2 * i, 2 * i + 1)]] = layout.pooled(hidden)
        return found

    def _stopped(self, layout: Layout) -> Tensor:
        """[T, d] after half the layers; the others never run."""
        seen: list[Tensor] = []

        def tap(_module: Any, _inputs: Any, output: Any) -> None:
            seen.append(output if isinstance(output, Tensor) else output[0])
            raise _DeepEnough

        hook = self.fast.model.layers[self.half - 1].register_forward_hook(tap)
        try:
            self.fast.model(layout.tokens[None], position_ids=layout.positions[None], use_cache=False)
        except _DeepEnough:
            pass
        finally:
            hook.remove()
        return seen[0][0]


class _DeepEnough(Exception):
    """Leaves the model's forward pass."""


def _batches(pairs: Sequence[Pair], budget: int) -> Iterator[list[int]]:
    """Indices of pairs of about the same size, at most `budget` tokens a batch where a pair allows it."""
    batch: list[int] = []
    for i in sorted(range(len(pairs)), key=lambda i: pairs[i].size):
        if batch and sum(pairs[j].size for j in batch) + pairs[i].size > budget:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def work(config: Any, layers: int, rows: Sequence[tuple[int, Sequence[int]]], *, head: bool = False) -> float:
    """FLOPs of prompts with their responses: layers · (2 · weights · tokens + 4 · channels · looks), and the head.

    Rows are (length of a prompt, lengths of the responses to it). A prompt of P tokens has P(P + 1)/2 looks, a response
    of R tokens R · P + R(R + 1)/2: what may attend, whatever more a kernel computes.
    """
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
    weights = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    tokens = sum(prompt + sum(responses) for prompt, responses in rows)
    looks = sum(p * (p + 1) // 2 + sum(r * p + r * (r + 1) // 2 for r in responses) for p, responses in rows)
    logits = 2 * config.vocab_size * config.hidden_size * tokens if head else 0
    return float(layers * (2 * weights * tokens + 4 * queries * looks) + logits)


def drawn(count: int, vocabulary: int) -> list[Pair]:
    """Pairs of random tokens with the lengths that the head of this file states."""
    source = random.Random(0)

    def text(median: float, sigma: float, least: int, most: int) -> list[int]:
        length = min(max(round(source.lognormvariate(0, sigma) * median), least), most)
        return [source.randrange(vocabulary) for _ in range(length)]

    return [Pair(text(96, 0.83, 24, 860), (text(31, 0.91, 1, 557), text(31, 0.91, 1, 557))) for _ in range(count)]


def matrix_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a square bf16 product."""
    x, y = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    x @ y
    seconds, _ = timed(device, lambda: [x @ y for _ in range(10)])
    return 10 * 2 * size**3 / seconds


def timed(device: torch.device, way: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the device is done, and what came out."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    found = way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, found


@dataclass
class Way:
    """A way of reading, the FLOPs it needs, the bytes of its weights, and what was measured of it."""

    read: Callable[[Sequence[Pair]], Tensor]
    flops: float
    weights: int
    seconds: list[float]
    peak: int = 0
    found: Tensor | None = None

    def measure(self, device: torch.device, pairs: Sequence[Pair]) -> None:
        """Read all pairs once; memory is that of the weights and what comes on top of it."""
        before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        passed, self.found = timed(device, lambda: self.read(pairs))
        self.seconds.append(passed)
        if device.type == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() - before + self.weights)


@torch.inference_mode()
def measured(name: str, weights: Path | None, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Every way on one shape, taking turns: figures of a table."""
    bench = Bench(name, weights, device, options.budget)
    config = bench.exact.config
    pairs = drawn(options.pairs, config.vocab_size)
    separate = [(len(sequence), ()) for pair in pairs for sequence in pair.sequences]
    paired = [(len(pair.prompt), [len(response) for response in pair.responses]) for pair in pairs]
    size, layers = sum(p.numel() for p in bench.exact.parameters()), config.num_hidden_layers
    ways = {
        "published": Way(bench.published, work(config, layers, separate, head=True), 4 * size, []),
        "padded": Way(bench.padded, work(config, layers, separate), 2 * size, []),
        "ours": Way(bench.ours, work(config, bench.half, paired), 2 * size, []),
    }
    rates: list[float] = []
    bench.published(pairs[:2])
    for name_of_way in ("padded", "ours"):
        ways[name_of_way].read(pairs)  # kernels are chosen and compiled
    for _ in range(options.rounds):
        rates.append(matrix_rate(device, 256 if options.tiny else 8192))
        for way in ways.values():
            way.measure(device, pairs)
    figures = {"shape": name, "weights": "trained" if weights else "random", "layers": layers, "read": bench.half}
    figures |= {"pairs": len(pairs), "tokens": sum(pair.size for pair in pairs)}
    figures["matrix_tflops"] = statistics.median(rates) / 1e12
    return figures | {"rows": [_row(name, way, ways["published"], figures) for name, way in ways.items()]}


def _row(name: str, way: Way, base: Way, figures: dict[str, Any]) -> dict[str, Any]:
    median = statistics.median(way.seconds)
    assert way.found is not None and base.found is not None
    away = (way.found.float() - base.found).norm(dim=1) / base.found.norm(dim=1)
    return {
        "way": name,
        "pairs_per_second": figures["pairs"] / median,
        "slowest": figures["pairs"] / max(way.seconds),
        "fastest": figures["pairs"] / min(way.seconds),
        "tokens_per_second": figures["tokens"] / median,
        "mfu": way.flops / median / figures["matrix_tflops"] / 1e12,
        "peak_gib": way.peak / 2**30,
        "ratio": statistics.median(base.seconds) / median,
        "largest_distance": float(away.max()),
        "median_distance": float(away.median()),
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = ["# Speed on one device", "", ", ".join(f"{k} {v}" for k, v in result["machine"].items()) + "."]
    for table in result["tables"]:
        lines += [
            "",
            f"**{table['shape']}**, {table['weights']} weights, {table['read']} of {table['layers']} layers read, "
            f"{table['pairs']} pairs, {table['tokens']:,} tokens, matrix rate {table['matrix_tflops']:.3g} TFLOP/s.",
            "",
            "| way | pairs/s | min–max | tok/s | MFU | peak GiB | ratio | distance to fp32, largest (median) |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {r['way']} | {r['pairs_per_second']:.1f} | {r['slowest']:.1f}–{r['fastest']:.1f} "
            f"| {r['tokens_per_second']:,.0f} | {r['mfu']:.2f} | {r['peak_gib']:.1f} | {r['ratio']:.1f}× "
            f"| {r['largest_distance']:.1e} ({r['median_distance']:.1e}) |"
            for r in table["rows"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every shape, print JSON and Markdown, and write them where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes on a CPU: proves the code, measures nothing")
    parser.add_argument(
        "--shapes", nargs="+", choices=list(SHAPES), default=[name for name in SHAPES if name != "tiny"]
    )
    parser.add_argument(
        "--weights", type=Path, help="folder of SmolLM2-135M weights, if not where the service has them"
    )
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=16384, help="tokens of a packed batch")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    options = parser.parse_args()
    device = torch.device("cpu" if options.tiny else "cuda")
    if options.tiny:
        options.shapes, options.pairs, options.rounds, options.budget = ["tiny"], 4, 1, 512
    elif not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --tiny proves the code on a CPU")
    found = sorted(Path(_CONVERTED).expanduser().parent.glob(Path(_CONVERTED).name))
    smol = options.weights or (found[0] if found else None)
    machine = {"device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()}
    machine |= {"torch": torch.__version__, "transformers": transformers.__version__}
    tables = []
    for name in options.shapes:
        tables.append(measured(name, smol if name.startswith("SmolLM2") else None, device, options))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    result = {"machine": machine, "tables": tables}
    print(json.dumps(result, indent=2), as_markdown(result), sep="\n")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")
        (options.out / "gpu.md").write_text(as_markdown(result))


if __name__ == "__main__":
    main()

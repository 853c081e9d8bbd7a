"""What a worker counts: of its budget, of what it answers, of its memory."""

from typing import Any

from app.schemas.annotate import Annotation, FailedAnnotation, PairProblem, Provenance
from app.schemas.chunk import ChunkAnswer
from workers.engine.memory import Budget
from workers.metrics import WorkerMetrics


def test_the_budget_and_what_it_was_too_large_for_can_be_watched() -> None:
    metrics, budget = WorkerMetrics(), Budget(8192)
    metrics.watch(budget)
    assert metrics.registry.get_sample_value("safemargin_batch_budget_tokens") == 8192
    assert metrics.registry.get_sample_value("safemargin_out_of_memory_total") == 0
    budget.short(8000)
    assert metrics.registry.get_sample_value("safemargin_batch_budget_tokens") == 4096
    assert metrics.registry.get_sample_value("safemargin_out_of_memory_total") == 1


def provenance(**changes: Any) -> Provenance:
    made = {"model": "tiny", "model_revision": "sha256:tiny", "template": "t", "layers": [1], "pooling": "mean"}
    said = {"calibrated": True, "unreliable": False, "dtype": "float32", "version": "0", "direction": "kind"}
    return Provenance.model_validate(made | said | changes)


def annotation(margin: float, **several: float) -> Annotation:
    def said(own: float) -> dict[str, Any]:
        raw = {"margin": own, "chosen": own, "rejected": 0.0}
        return {"margin": own, "probability": 0.5, "level": None, "label_conflict": own < 0, "raw": raw}

    tokens = {"prompt": 1, "chosen": 1, "rejected": 1}
    directions = {name: said(own) for name, own in several.items()} or None
    entry = {"id": "a", "truncated": False, "tokens": tokens, "directions": directions}
    return Annotation.model_validate(said(margin) | entry)


def refusal(code: str) -> FailedAnnotation:
    return FailedAnnotation(id="b", error=PairProblem(status=422, code=code, detail="it is"))


def answered(metrics: WorkerMetrics, *entries: Annotation | FailedAnnotation, **changes: Any) -> None:
    lines = list(range(1, len(entries) + 1))
    metrics.answered(ChunkAnswer(entries=list(entries), lines=lines, provenance=provenance(**changes)), 10)


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"safemargin_{name}", labels)


def test_margins_conflicts_and_refusals_are_counted_by_direction_and_reason() -> None:
    metrics = WorkerMetrics()
    answered(metrics, annotation(0.3), annotation(-0.7), refusal("too_long"))
    answered(metrics, annotation(1.0, kind=1.0, mine=-1.0))
    assert value(metrics, "margin_count", direction="kind") == 3
    assert value(metrics, "label_conflicts_total", direction="kind") == 1
    assert value(metrics, "label_conflicts_total", direction="mine") == 1
    assert value(metrics, "pairs_annotated_total", outcome="annotated") == 3
    assert value(metrics, "answered_tokens_total") == 20
    assert value(metrics, "pair_errors_total", reason="too_long") == 1


def test_what_taught_models_reward_models_and_rules_say_is_counted_apart_from_directions() -> None:
    metrics = WorkerMetrics()
    answered(metrics, annotation(1.0), method="rahf", direction=None, alignment={"id": "kind", "digest": "d"})
    answered(metrics, annotation(1.0), method="reward", direction=None, reward_model={"id": "kind", "digest": "d"})
    answered(metrics, annotation(1.0), method="rules", direction=None)
    assert value(metrics, "margin_count", direction="rahf:kind") == 1
    assert value(metrics, "margin_count", direction="reward:kind") == 1
    assert value(metrics, "margin_count", direction="rules") == 1


def test_however_many_directions_there_are_the_series_are_few() -> None:
    metrics = WorkerMetrics()
    for number in range(100):
        answered(metrics, annotation(-1.0), direction=f"d{number}")
    series = [s for family in metrics.registry.collect() for s in family.samples if s.name == "safemargin_margin_count"]
    assert len(series) == 33
    assert value(metrics, "margin_count", direction="other") == 68


def test_memory_of_the_host_is_told_from_the_start() -> None:
    metrics = WorkerMetrics()
    taken, most = (value(metrics, name, place="host") or 0 for name in ("memory_bytes", "memory_limit_bytes"))
    assert 0 < taken < most

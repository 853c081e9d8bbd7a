"""What a worker counts of its budget."""

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

"""Rule adapters: what predicts the critical rules of a pair from the pair alone (RuleAdapter, arXiv 2501.15453)."""

"""Reward models that are trained with margins, and how well reward models read."""

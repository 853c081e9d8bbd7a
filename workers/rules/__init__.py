"""Data-adaptive safety rules: pools, which rules are critical for a pair, and what they say together; raters."""

"""Scores: metrics (pure functions), evaluate (exact sums over a set), plots, and the report of a run."""

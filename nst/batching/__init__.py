"""Which runs of a sweep are computed as one batch, and how. Knows nothing of formulas."""

"""Frozen feature networks: their layers by name, their weights, their preprocessing. Knows nothing of losses."""

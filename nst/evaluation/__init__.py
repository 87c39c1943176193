"""Scores of a finished picture. Knows nothing of how it was made."""

"""Gradient descent on pixels: the loop, its state, scales, learning rates, the start. Knows nothing of files."""

"""Owns how a network that paints is trained: methods, their data, the loop; knows nothing of how it is used later."""

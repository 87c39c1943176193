"""Settings for every test."""

import torch

# One thread each: the networks here are tiny, and two threads on busy cores wait for each other.
torch.set_num_threads(1)

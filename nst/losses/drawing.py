"""Numbers that a loss draws: the same for the same seed and step, whatever was drawn before, on any device."""

import hashlib

import torch
from torch import Tensor

from nst.losses.functional import at_least_float32
from nst.losses.settings import check_count, check_norm, check_positive


class Drawing:
    """What losses that draw numbers have in common; their target is the whole map, since the numbers change.

    Between two calls of ``begin_step`` nothing is drawn anew, so that a line search sees one function.

    Args:
        redraw: steps between two draws.
        norm: ``relative``, ``none`` or a divisor.
    """

    def __init__(self, redraw: int = 1, norm: str | float = "relative", scale: float = 1.0) -> None:
        self.redraw = check_count("redraw", redraw)
        self.norm = check_norm("norm", norm, ("none", "relative"))
        self.scale = check_positive("scale", scale)
        self.begin_step(0, 0)

    def target(self, features: Tensor) -> Tensor:
        """Return what to keep of the content or style image's map ``(B, C, H, W)``: the map itself."""
        return features

    def begin_step(self, step: int, seed: int) -> None:
        """Tell the loss which step of which run begins; before the first call it is step 0 of seed 0."""
        self.drawn_for = seed, step // self.redraw

    def generator(self) -> torch.Generator:
        """Return a generator, on the CPU, that every call within a step finds in the same state."""
        seed, turn = self.drawn_for
        digest = hashlib.sha256(f"{seed} {turn}".encode()).digest()  # so that neighbouring steps are not alike
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def unit_directions(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Draw directions uniformly: ``(count, channels)`` in float64, each of length 1."""
    directions = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)


def sampled_positions(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` positions of a map ``(B, C, H, W)``, drawn without repetition, or all: ``(B, C, n)``.

    Maps of the same number of positions are seen at the same ones by generators in the same state.
    """
    rows = at_least_float32(features).flatten(2)
    if rows.shape[2] <= count:
        return rows
    positions = torch.randperm(rows.shape[2], generator=generator)[:count]
    return rows[:, :, positions.to(rows.device)]

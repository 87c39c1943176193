"""Numbers that a loss draws: the same for the same seed and step, whatever was drawn before, on any device."""

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

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
        self.layer_weights: Sequence[float] = ()
        self.begin_step(0, 0)

    def target(self, features: Any) -> Any:
        """Return what to keep of the content or style image's map ``(B, C, H, W)``, or maps: these themselves."""
        return features

    def for_layers(self, weights: Mapping[str, float]) -> Self:
        """Return this loss for layers that it joins: what each one's maps are multiplied by, by name."""
        own = copy.copy(self)
        own.layer_weights = list(weights.values())
        return own

    def weighted(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of joined layers, at least in float32, times the layers' weights."""
        weights = self.layer_weights or [1.0] * len(maps)
        return [at_least_float32(one) * weight for one, weight in zip(maps, weights, strict=True)]

    def columns(self, features: Tensor | Sequence[Tensor], count: int) -> Tensor:
        """Return a map's vectors, or hypercolumns of joined layers, at positions drawn for this step: ``(B, C, n)``."""
        if isinstance(features, Tensor):
            return sampled_positions(features, count, self.generator())
        return sampled_columns(self.weighted(features), count, self.generator())

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


def sampled_columns(maps: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Return hypercolumns at ``count`` positions of the finest map, drawn without repetition, or at all: ``(B, C, n)``.

    A hypercolumn is all that the maps ``(B, C_l, H_l, W_l)`` say of one place (Hariharan et al. 2015). A map that is
    about 2^k times smaller is read at the position divided by 2^k, between its own positions bilinearly, as STROTSS's
    code does (Kolkin 2019).
    """
    height, width = max((one.shape[2:] for one in maps), key=math.prod)
    positions = torch.randperm(height * width, generator=generator)[:count].to(maps[0].device)
    places = torch.stack([positions // width, positions % width]).float()
    found = []
    for one in maps:
        size = one.shape[2:]
        at = places / 2.0 ** round(math.log2(max(height, width) / max(size)))
        low, high = (
            torch.stack([axis.clamp(max=side - 1) for axis, side in zip(corner, size, strict=True)]).long()
            for corner in (at.floor(), at.floor() + 1)
        )
        after = (at - at.floor()).to(one.dtype)
        flat, before = one.flatten(2), 1 - after
        found.append(
            flat[:, :, low[0] * size[1] + low[1]] * (before[0] * before[1])
            + flat[:, :, low[0] * size[1] + high[1]] * (before[0] * after[1])
            + flat[:, :, high[0] * size[1] + low[1]] * (after[0] * before[1])
            + flat[:, :, high[0] * size[1] + high[1]] * (after[0] * after[1])
        )
    return torch.cat(found, dim=1)

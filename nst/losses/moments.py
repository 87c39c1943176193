"""Moments: how far each channel's mean and standard deviation are from the style image's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_norm, check_positive

NORMS = ("none", "relative", "li")


class MomentsLoss:
    """Sum over channels of (mu_F - mu_S)^2 + (sigma_F - sigma_S)^2: batch normalisation's (Li 2017, section 4.2).

    Args:
        norm: ``relative`` divides by the sum of mu_S^2 + sigma_S^2, what an all-zero map would give; ``li`` by C / N,
            as the authors' code does; ``none`` does not divide; a number is the divisor.
        scale: multiplies the style term as a whole.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, norm: str | float = "relative", scale: float = 1.0) -> None:
        self.norm = check_norm("norm", norm, NORMS)
        self.scale = check_positive("scale", scale)

    target_is_map = False

    def target(self, features: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return the mean and the standard deviation of each channel of ``(B, C, H, W)``: ``(B, 2, C)``."""
        return self.target_of_sums(self.sums(features, guide=guide), features.shape[1:])

    def __call__(self, features: Tensor, target: Tensor, guide: Tensor | None = None) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target, its positions weighted by a guide if there is one; ``(B,)``."""
        return self.value(self.sums(features, guide=guide), target, features.shape[1:])

    def sums(self, features: Tensor, target: object = None, guide: Tensor | None = None) -> Tensor:
        """Sum each channel and its square over the positions: ``(B, 2, C)``."""
        return torch.stack([F.channel_sums(features, guide), F.channel_sums(features, guide, power=2)], dim=1)

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[int]) -> Tensor:
        """Finish from the sums ``(B, 2, C)``; ``shape`` is the map's ``(C, H, W)``."""
        distance = F.squared_error(self.target_of_sums(sums, shape), target, "sum")
        channels, height, width = shape
        return F.normalised(distance, self.norm, target.square().sum((1, 2)), li=channels / (height * width))

    def target_of_sums(self, sums: Tensor, shape: Sequence[int]) -> Tensor:
        """Return what ``target`` would, from the sums over the style image's map."""
        mean, square = (sums / (shape[1] * shape[2])).unbind(1)
        return torch.stack([mean, _root(square - mean.square(), square)], dim=1)


def _root(variance: Tensor, square: Tensor) -> Tensor:
    """Return the standard deviation; of a channel that is constant up to rounding 0, with the gradient 0, not infinity.

    Args:
        variance: square - mean^2, which cancel.
        square: mean of the squares.
    """
    varies = variance > 4 * torch.finfo(square.dtype).eps * square
    return torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)

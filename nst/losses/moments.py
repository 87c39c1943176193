"""Moments: how far each channel's mean and standard deviation are from the style image's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nst.losses import functional as F
from nst.losses.summed import FunctionOfSums


class MomentsLoss(FunctionOfSums):
    """Sum over channels of (mu_F - mu_S)^2 + (sigma_F - sigma_S)^2: batch normalisation's (Li 2017, section 4.2).

    Args:
        norm: ``relative`` divides by the sum of mu_S^2 + sigma_S^2, what an all-zero map would give; ``li`` by C / N,
            as the authors' code does; ``none`` does not divide; a number is the divisor.
    """

    def sums(self, features: Tensor, target: object = None, guide: Tensor | None = None) -> Tensor:
        """Sum each channel and its square over the positions: ``(B, 2, C)``."""
        return torch.stack([F.channel_sums(features, guide=guide, power=power) for power in (1, 2)], dim=1)

    def target_of_sums(self, sums: Tensor, shape: Sequence[float]) -> Tensor:
        """Return the mean and the standard deviation of each channel, ``(B, 2, C)``."""
        mean, square = super().target_of_sums(sums, shape).unbind(1)
        return torch.stack([mean, _root(square - mean.square(), square)], dim=1)


def _root(variance: Tensor, square: Tensor) -> Tensor:
    """Return the standard deviation; of a channel constant up to rounding (of its mean square) 0, with gradient 0."""
    varies = variance > 4 * torch.finfo(square.dtype).eps * square
    return torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)

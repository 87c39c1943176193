"""Losses of a region: a mask tells which positions of a feature map count."""

from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from nst.losses import functional as F


class Guided:
    """A loss of a region of the picture, against the whole of its target (Gatys 2017, section 4).

    The mask T is brought to each map's size by averaging, and positions count by w = T^2, scaled to a mean of 1: the
    guided Gram matrix of the paper is the sum of w F F^T, divided as without a mask.

    Args:
        loss: takes ``guide``; see ``is_guidable``.
        mask: T, ``(1, 1, H, W)`` in [0, 1] of the picture as the network sees it, shift and margin included.
    """

    def __init__(self, loss: Any, mask: Tensor) -> None:
        self.loss, self.mask = loss, mask
        self.guides: dict[tuple[int, int], Tensor] = {}

    def target(self, features: Tensor | tuple[Tensor, Tensor]) -> Any:
        """Return what the loss keeps of the whole style image."""
        return self.loss.target(features)

    def __call__(self, features: Tensor | tuple[Tensor, Tensor], target: Any) -> Tensor:
        """Compare the region of ``(B, C, H, W)``, or of a pair of maps, with the target; returns ``(B,)``."""
        finest = max([features] if isinstance(features, Tensor) else features, key=lambda maps: maps.shape[2])
        size = (finest.shape[2], finest.shape[3])
        if size not in self.guides:
            self.guides[size] = guide_of(self.mask, size)
        return self.loss(features, target, guide=self.guides[size].to(F.at_least_float32(finest).dtype))


def guide_of(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the weights of a map's positions, ``(1, 1, h, w)`` with a mean of 1, given a mask ``(1, 1, H, W)``."""
    weights = interpolate(mask, size=size, mode="area").square()
    return weights / weights.mean()

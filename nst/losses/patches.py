"""Losses that compare patches of maps: each is to look like one that the style image has."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from nst.losses.functional import at_least_float32, divisor, mean_square, squared_error
from nst.losses.settings import check_count, check_norm, check_positive

SCORES = 2**24  # correlations that are held at once


def patches(features: Tensor, side: int, stride: int) -> Tensor:
    """Cut out all patches of side x side positions, ``stride`` apart, of ``(B, C, H, W)``: ``(B, C * side^2, n)``."""
    return nnf.unfold(at_least_float32(features), side, stride=stride)


@torch.no_grad()
def nearest(ours: Tensor, units: Tensor, most: int = SCORES) -> Tensor:
    """Find for each patch the other one with which its normalised cross-correlation is largest (Li & Wand 2016, eq. 3).

    Of ours ``(B, D, n)`` and others ``(B or 1, D, m)`` of length 1, return which of the others, ``(B, n)``, the first
    of several that are equally near; how long ours are makes no difference. At most so many correlations are held at
    once: memory is bounded by it and not by n * m.
    """
    at_once = max(most // (len(ours) * units.shape[2]), 1)
    return torch.cat([(part.mT @ units).argmax(2) for part in ours.split(at_once, dim=2)], dim=1)


def mrf_loss(features: Tensor, target: Tensor, side: int = 3, stride: int = 2) -> Tensor:
    """Mean squared difference between each patch and the most similar one of the style image (Li & Wand 2016, eq. 2).

    Which patch that is, is a constant: the gradient goes through the difference alone. The paper takes the sum. Patches
    of F ``(B, C, H, W)`` and S ``(B or 1, C, H', W')`` are ``side`` positions wide, or as a map that is smaller, and
    ``stride`` positions apart.
    """
    side = min(side, *features.shape[2:], *target.shape[2:])
    ours, others = patches(features, side, stride), patches(target, side, stride)
    return squared_error(ours, chosen(others, nearest(ours, normalized(others))))


def chosen(others: Tensor, which: Tensor) -> Tensor:
    """Return of others ``(B or 1, D, m)`` those that are named ``(B, n)``: ``(B, D, n)``."""
    return others.expand(len(which), -1, -1).gather(2, which[:, None].expand(-1, others.shape[1], -1))


def normalized(vectors: Tensor) -> Tensor:
    """Return vectors ``(B, C, n)`` at length 1, but zero where they are."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(lengths > 0, lengths, 1)


class MRFLoss:
    """Difference of each patch from the style image's most similar one; the formula is ``mrf_loss``.

    Args:
        patch: positions of a patch's side.
        stride: positions from one patch to the next.
        norm: ``relative`` (to the style map's mean square), ``none`` or a divisor.
    """

    def __init__(self, patch: int = 3, stride: int = 2, norm: str | float = "relative", scale: float = 1.0) -> None:
        self.patch = check_count("patch", patch)
        self.stride = check_count("stride", stride)
        self.norm = check_norm("norm", norm, ("none", "relative"))
        self.scale = check_positive("scale", scale)

    def target(self, features: Tensor) -> Tensor:
        """Return what to keep of the style image's map ``(B, C, H, W)``: the map, which is smaller than its patches."""
        return features

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        value = mrf_loss(features, target, self.patch, self.stride)
        return value / divisor(self.norm, lambda: mean_square(target))

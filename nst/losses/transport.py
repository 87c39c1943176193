"""Losses that compare how the style image's activations are distributed, by sorting: optimal transport on a line.

For two sets of numbers the cheapest way to carry one into the other pairs them in order. F is the feature map of the
image being optimised, S the style image's, ``(B, C, H, W)`` and ``(B or 1, C, H', W')``; a loss is ``(B,)``.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nst.losses.drawing import Drawing, unit_directions
from nst.losses.functional import at_least_float32, divisor, mean_square, squared_error
from nst.losses.settings import check_count, check_norm, check_positive


def in_order(values: Tensor) -> Tensor:
    """Sort numbers ``(..., N)``, ascending and differentiably; on a CPU by NumPy, which is several times as fast."""
    if values.device.type != "cpu":
        return values.sort(dim=-1).values
    if not (values.requires_grad and torch.is_grad_enabled()):
        return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))
    return values.gather(-1, torch.from_numpy(np.argsort(values.detach().numpy(), axis=-1)))


def wasserstein_1d(values: Tensor, target: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance between sets of numbers, the integral over t in (0, 1) of (Q_F(t) - Q_S(t))^2.

    Q is a set's quantile function, which is constant on each of n equal parts of (0, 1) for a set of n numbers (Peyre
    & Cuturi 2019, remark 2.30). With as many numbers on both sides this is the mean squared difference of the sorted
    numbers. Else let m_i be the mean of Q_S over the i-th part of Q_F: the integral is the mean of (F_i - m_i)^2 plus
    the variance of Q_S within the parts, which no F can change.

    Values are ``(..., N)``, the target ``(..., M)``, a constant whose gradient is not taken; ``(...)`` is exact.
    """
    with torch.no_grad():
        means, variance = _parts(in_order(target), values.shape[-1])
    return (in_order(values) - means).square().mean(-1) + variance


def sliced_wasserstein(features: Tensor, target: Tensor, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance: the mean over directions V of W2^2(V F, V S) (Heitz 2021).

    V is ``(n, C)``, each of length 1. The expectation over uniform directions is zero only where F and S have the same
    distribution.
    """
    rows = at_least_float32(features).flatten(2)
    directions = directions.to(rows)
    with torch.no_grad():
        projected = directions @ at_least_float32(target).flatten(2)
    return wasserstein_1d(directions @ rows, projected).mean(1)


def matched_quantiles(ordered: Tensor, count: int) -> Tensor:
    """Return the numbers that ``count`` others, in order, become when their histogram is matched to the given one.

    The k-th of n becomes the quantile k/n, interpolated between those of the M given numbers, which are at 1/M, 2/M ...
    1. For n = M that is the k-th given number. Of ``(..., M)`` come ``(..., n)``, both ascending.
    """
    given = ordered.shape[-1]
    if given == count:
        return ordered
    places = torch.arange(1, count + 1, device=ordered.device) * given
    below = places // count - 1
    share = (places % count).to(ordered.dtype) / count
    low = ordered.index_select(-1, below.clamp(min=0))
    high = ordered.index_select(-1, (below + 1).clamp(max=given - 1))
    return low + share * (high - low)


def histogram_loss(features: Tensor, ordered: Tensor) -> Tensor:
    """Mean of (F - R)^2, where R is F with each channel's histogram matched to that of S (Risser 2017).

    R is a constant: how it depends on F is left out of the gradient, as in the paper. Values are matched by their
    ranks and not by bins, so that no number of bins has to be chosen and equal maps have no distance. Since matching
    keeps the order, F ``(B, C, H, W)`` and R are compared in order; of S each channel is given in ascending order,
    ``(B or 1, C, M)``.
    """
    ours = in_order(at_least_float32(features).flatten(2))
    return squared_error(ours, matched_quantiles(at_least_float32(ordered), ours.shape[2]))


class SlicedWassersteinLoss(Drawing):
    """Sliced Wasserstein distance between all activations; the formula is ``sliced_wasserstein``.

    Args:
        directions: to project on, or None for as many as there are channels, as the authors do.
        redraw: steps between two draws of directions; with L-BFGS some dozens, since it wants one function.
        norm: ``relative`` (to the target's mean square, which is the distance of an all-zero map on average over
            directions), ``none`` or a divisor.
    """

    def __init__(
        self, directions: int | None = None, redraw: int = 1, norm: str | float = "relative", scale: float = 1.0
    ) -> None:
        super().__init__(redraw, norm, scale)
        self.directions = directions if directions is None else check_count("directions", directions)

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        channels = features.shape[1]
        directions = unit_directions(self.directions or channels, channels, self.generator())
        value = sliced_wasserstein(features, target, directions)
        return value / divisor(self.norm, lambda: mean_square(target))


class HistogramLoss:
    """Difference from the map with the style image's histograms; the formula is ``histogram_loss``.

    Args:
        norm: ``relative`` (to the target's mean square), ``none`` or a divisor.
    """

    def __init__(self, norm: str | float = "relative", scale: float = 1.0) -> None:
        self.norm = check_norm("norm", norm, ("none", "relative"))
        self.scale = check_positive("scale", scale)

    def target(self, features: Tensor) -> Tensor:
        """Return what to keep of the style image's map ``(B, C, H, W)``: each channel in order, ``(B, C, H * W)``."""
        return in_order(at_least_float32(features).flatten(2))

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        return histogram_loss(features, target) / divisor(self.norm, lambda: mean_square(target))


def _parts(ordered: Tensor, count: int) -> tuple[Tensor, Tensor | float]:
    """Return a quantile function's means over ``count`` equal parts, and its mean variance within them ``(...)``."""
    given = ordered.shape[-1]
    if given == count:
        return ordered, 0.0
    begin = torch.arange(count, device=ordered.device) * given  # in units of 1 / (count * given), so without rounding
    first = begin // count

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the k-th number that each part touches, and the share of the part that it fills."""
        for k in range((given + count - 2) // count + 1):
            number = first + k
            overlap = torch.minimum(begin + given, (number + 1) * count) - torch.maximum(begin, number * count)
            share = overlap.clamp(min=0).to(ordered.dtype) / given
            yield ordered.index_select(-1, number.clamp(max=given - 1)), share

    means = ordered.new_zeros(*ordered.shape[:-1], count)
    for numbers, share in pieces():
        means += share * numbers
    variance = ordered.new_zeros(ordered.shape[:-1])
    for numbers, share in pieces():
        variance += (share * (numbers - means).square()).mean(-1)
    return means, variance

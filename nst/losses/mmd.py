"""Maximum mean discrepancy (MMD): how far apart two layers' features are as seen by a kernel (Li 2017).

The features of F at its positions are x, those of the style image y; E is the mean over pairs of positions. Then
MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y): nothing but what the kernel can tell apart. The Gram loss is the one of
(x . y)^2 (Li 2017, section 4.1).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nst.losses import functional as F
from nst.losses.settings import check_choice, check_norm, check_not_negative, check_positive
from nst.losses.summed import FunctionOfSums

PAIRS = ("linear", "all")
BLOCK = 2**22  # pairs looked at together, where all are

Kernel = Callable[[Tensor, Tensor], Tensor]


class LinearMMDLoss(FunctionOfSums):
    """MMD^2 of the kernel x . y, the squared distance of the channels' means |mu_F - mu_S|^2 (Li 2017, section 4.2).

    Args:
        norm: ``relative`` divides by |mu_S|^2, what an all-zero map would give; ``li`` by C / N, as the authors' code
            does; ``none`` does not divide; a number is the divisor.
    """

    sums = staticmethod(F.channel_sums)


class PolynomialMMDLoss(FunctionOfSums):
    """MMD^2 of the kernel (x . y + c)^d, over all pairs of positions (Li 2017, section 4.2).

    At degree 2 it is |G_F / N - G_S / N|^2 + 2 c |mu_F - mu_S|^2 (for c = 0 the Gram loss), which is what is computed.
    A higher degree looks at every pair of positions, so that its time grows with the square of their number.

    Args:
        degree: d, a whole number from 2 up.
        offset: c, 0 or more.
        norm: ``relative`` divides by what an all-zero map would give; ``li`` by C^2 / N, as the authors' code does;
            ``none`` does not divide; a number is the divisor.
    """

    def __init__(
        self, degree: int = 2, offset: float = 0.0, norm: str | float = "relative", scale: float = 1.0
    ) -> None:
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 2:
            raise ValueError(f"degree={degree} must be a whole number from 2 up; degree 1 is style_loss=mmd_linear")
        super().__init__(norm, scale)
        self.degree = degree
        self.offset = check_not_negative("offset", offset)
        products = F.products_and_sums if self.offset else F.channel_products  # engines know the latter
        self.sums: Callable[..., Tensor] | None = products if degree == 2 else None

    def target(self, features: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return what to keep of the style image's map ``(B, C, H, W)``.

        At degree 2 the means of the products, and beside them those of the channels if c is not 0; otherwise all
        positions with their weights, ``(B, N, C + 1)``.
        """
        if self.sums is not None:
            return super().target(features, guide)
        return torch.cat([_rows(features), _weights(features, guide)[:, :, None]], dim=2)

    def __call__(self, features: Tensor, target: Tensor, guide: Tensor | None = None) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target, its positions weighted by a guide if there is one; ``(B,)``."""
        if self.sums is not None:
            return super().__call__(features, target, guide)
        x, y = _rows(features), target[:, :, :-1]
        weights, style_weights = _weights(features, guide), target[:, :, -1]
        style = _mean(self._kernel, y, y, style_weights, style_weights)
        distance = _mean_of_one(self._kernel, x, weights) + style
        distance = distance - 2 * _mean(self._kernel, x, y, weights, style_weights)
        return distance / self._divisor(style - self.offset**self.degree, features.shape[1:])

    target_of_sums = FunctionOfSums.target_of_sums  # goes with this class's target, see is_summed

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[float]) -> Tensor:
        """Finish from the sums ``(B, C, C)`` or ``(B, C, C + 1)``; ``shape`` is the map's ``(C, H, W)``."""
        means, channels = self.target_of_sums(sums, shape), int(shape[0])
        distance = F.squared_error(means[:, :, :channels], target[:, :, :channels], "sum")
        size = target[:, :, :channels].square().sum((1, 2))
        if self.offset:
            distance = distance + 2 * self.offset * F.squared_error(means[:, :, -1], target[:, :, -1], "sum")
            size = size + 2 * self.offset * target[:, :, -1].square().sum(1)
        return distance / self._divisor(size, shape)

    def _divisor(self, size: Tensor, shape: Sequence[float]) -> Tensor | float:
        return F.divisor(self.norm, lambda: size, li=shape[0] ** 2 / (shape[1] * shape[2]))

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.mT + self.offset) ** self.degree


class GaussianMMDLoss:
    """MMD^2 of the kernel exp(-|x - y|^2 / (2 sigma^2)) (Li 2017, section 4.2).

    ``pairs=linear`` estimates it in linear time (Gretton 2012, section 6) from pairs of positions that are drawn anew
    each step: the mean of k(x, x') + k(y, y') - k(x, y') - k(x', y), where each position has one partner. It may be
    negative and is not 0 at its target. ``pairs=all`` is exact; its time grows with the square of the positions.

    Args:
        bandwidth: sigma, or ``auto``: 2 sigma^2 is the mean of |x - y|^2 over the pairs of all four kinds, and held
            constant when gradients are taken, as in the authors' code.
        pairs: ``linear`` or ``all``.
        norm: ``relative`` divides by what an all-zero map would give with the same bandwidth and pairs; ``li`` by
            C N / the number of pairs, which makes of the mean a sum as in the authors' code; ``none`` does not divide;
            a number is the divisor.
    """

    def __init__(
        self, bandwidth: str | float = "auto", pairs: str = "linear", norm: str | float = "relative", scale: float = 1.0
    ) -> None:
        self.bandwidth = check_norm("bandwidth", bandwidth, ("auto",))
        self.pairs = check_choice("pairs", pairs, PAIRS)
        self.norm = check_norm("norm", norm, FunctionOfSums.norms)
        if self.norm == "li" and self.pairs == "all":
            raise ValueError("norm=li counts the pairs of pairs=linear; with pairs=all use another norm")
        self.scale = check_positive("scale", scale)
        self.drawn = (0, 0)

    def begin_step(self, step: int, seed: int) -> None:
        """Draw the pairs of ``pairs=linear`` anew, as a function of seed and step alone."""
        self.drawn = (seed, step)

    def target(self, features: Tensor) -> Tensor:
        """Return all positions of the style image's map ``(B, C, H, W)``: ``(B, N, C)``."""
        return _rows(features).contiguous()

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        return (self._of_all if self.pairs == "all" else self._of_pairs)(_rows(features), target)

    def _of_pairs(self, x: Tensor, y: Tensor) -> Tensor:
        positions = x.shape[1]
        (x, x_), (y, y_) = self._draw(x, y)
        distances = [_squares(x - x_), _squares(y - y_), _squares(x - y_), _squares(x_ - y)]
        within_x, within_y, *across = (d.detach().mean(1) for d in distances)
        rate = self._rate((within_x + within_y + across[0] + across[1]) / 4)[:, None]
        of_x, of_y, one, other = ((-rate * d).exp() for d in distances)
        to_zero = (-rate * _squares(y)).exp() + (-rate * _squares(y_)).exp()
        size = (1 + of_y - to_zero).mean(1).detach()
        li = x.shape[2] * positions / x.shape[1]
        return (of_x + of_y - one - other).mean(1) / F.divisor(self.norm, lambda: size, li=li)

    def _of_all(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            spread = [_squares(rows - rows.mean(1, keepdim=True)).mean(1) for rows in (x, y)]
            rate = self._rate(spread[0] + spread[1] + _squares(x.mean(1) - y.mean(1)) / 2)[:, None, None]

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            squared = _squares(a)[:, :, None] + _squares(b)[:, None] - 2 * a @ b.mT
            return (-rate * squared.clamp(min=0)).exp()

        style = _mean(kernel, y, y)
        size = 1 + style - 2 * (-rate[:, 0] * _squares(y)).exp().mean(1)
        return (_mean_of_one(kernel, x) + style - 2 * _mean(kernel, x, y)) / F.divisor(self.norm, lambda: size)

    def _draw(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Pair as many positions of each map as both have, at random; of a single one, itself with itself."""
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(self.drawn).generate_state(1)[0]))
        number = min(x.shape[1], y.shape[1]) // 2
        drawn = []
        for rows in (x, y):
            order = torch.randperm(rows.shape[1], generator=generator)
            first, second = (order[:number], order[number : 2 * number]) if number else (order[:1], order[:1])
            drawn.append((rows[:, first.to(rows.device)], rows[:, second.to(rows.device)]))
        return drawn

    def _rate(self, mean_square: Tensor) -> Tensor:
        """Return 1 / (2 sigma^2) of each image, given the mean squared distance ``(B,)``."""
        if isinstance(self.bandwidth, str):
            return 1 / torch.where(mean_square > 0, mean_square, torch.ones_like(mean_square))
        return torch.full_like(mean_square, 1 / (2 * self.bandwidth**2))


def _rows(features: Tensor) -> Tensor:
    """Return the features ``(B, C)`` at each position of a map: ``(B, N, C)``."""
    return F.at_least_float32(features).flatten(2).mT


def _weights(features: Tensor, guide: Tensor | None) -> Tensor:
    """Return the weight of each position, ``(B, N)``."""
    weights = features.new_ones(1, *features.shape[2:]) if guide is None else guide
    return weights.to(F.at_least_float32(features[:0]).dtype).flatten(1).expand(len(features), -1)


def _squares(rows: Tensor) -> Tensor:
    return rows.square().sum(-1)


def _mean_of_one(kernel: Kernel, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return ``_mean`` over the pairs of one map; k(x, x') being symmetric, half of its gradient is the other half."""
    half = _mean(kernel, x, x.detach(), weights, weights)
    return 2 * half - half.detach()


def _mean(kernel: Kernel, x: Tensor, y: Tensor, weights: Tensor | None = None, others: Tensor | None = None) -> Tensor:
    """Return the mean ``(B,)`` of a kernel over all pairs of ``(B, N, C)`` and ``(B or 1, M, C)``, block by block."""

    def block(part: Tensor, its: Tensor | None) -> Tensor:
        values = kernel(part, y)
        values = values.sum(2) if others is None else (values * others[:, None]).sum(2)
        return (values if its is None else values * its).sum(1)

    size = max(BLOCK // y.shape[1], 1)
    parts = x.split(size, 1)
    of_parts = [None] * len(parts) if weights is None else weights.split(size, 1)
    sums = [  # what a block needs on the way back is computed again there
        checkpoint(block, *pair, use_reentrant=False, preserve_rng_state=False)
        for pair in zip(parts, of_parts, strict=True)
    ]
    return torch.stack(sums).sum(0) / (x.shape[1] * y.shape[1])

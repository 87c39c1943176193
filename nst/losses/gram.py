"""Gram losses: how far a layer's products of channels are from the style image's."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_choice, check_finite, check_norm, check_positive, check_smoothing
from nst.losses.summed import FunctionOfSums

CROSS_LAYERS = ("none", "adjacent")
Maps = Tensor | tuple[Tensor, Tensor]


class GramLoss(FunctionOfSums):
    """Squared difference of Gram matrices; the formula is ``functional.gram_loss``.

    With ``cross_layers=adjacent`` the matrices are those of each layer with the next one listed, in place of each
    layer's own (Novak & Nikulin 2016, "correlation chain"); see ``functional.cross_products``. Where a name of a norm
    says C, that is then the geometric mean of both, and N the positions of the finer map.

    Args:
        gram_norm: ``none``, ``N`` or ``CN``: what the Gram matrix is divided by.
        term_norm: ``relative``, ``none``, ``CN``, ``4C2``, ``4C2N2``, ``keras`` or a number: what the finished term is
            divided by.
        reduction: ``mean`` or ``sum`` over the matrix.
        shift: added to every activation first; -1 in Novak & Nikulin 2016, section 3.3.
        cross_layers: ``none`` or ``adjacent``.
        smoothing: ``none``, or ``softmax`` of each map before its products; see ``functional.smoothed``. It looks at
            the whole map, so that there are neither tiles nor regions; and goes with the defaults of the two above.
        temperature: what maps are divided by before the softmax.
    """

    def __init__(
        self,
        gram_norm: str = "N",
        term_norm: str | float = "relative",
        reduction: str = "mean",
        scale: float = 1.0,
        shift: float = 0.0,
        cross_layers: str = "none",
        smoothing: str = "none",
        temperature: float = 1.0,
    ) -> None:
        self.gram_norm = check_choice("gram_norm", gram_norm, F.GRAM_NORMS)
        self.term_norm = check_norm("term_norm", term_norm, F.TERM_NORMS)
        self.reduction = check_choice("reduction", reduction, F.REDUCTIONS)
        self.scale = check_positive("scale", scale)
        self.shift = check_finite("shift", shift)
        self.couples_layers = check_choice("cross_layers", cross_layers, CROSS_LAYERS) == "adjacent"
        self.is_smoothed = check_smoothing(smoothing, temperature)
        self.temperature = temperature
        if self.is_smoothed and (shift or self.couples_layers):
            raise ValueError("smoothing=softmax goes with shift=0 and cross_layers=none")
        self.takes_guide = not self.is_smoothed
        self.sums: Callable[..., Tensor] | None = None
        if not (self.couples_layers or self.is_smoothed):
            products = F.channel_products  # itself where it can be: engines know it
            self.sums = functools.partial(products, shift=self.shift) if shift else products
        self.picture: int | None = None

    def for_picture(self, height: int, width: int) -> GramLoss:
        """Return this loss for a picture of so many pixels, which ``term_norm=keras`` counts; else a map's count."""
        own = copy.copy(self)
        own.picture = height * width
        return own

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[float]) -> Tensor:
        """Finish from the summed products of channels ``(B, C, C)``; ``shape`` is the map's ``(C, H, W)``."""
        norms, zero = (self.gram_norm, self.term_norm), shape[1] * shape[2] if self.is_smoothed else 0.0
        return F.gram_value(sums, target, shape, *norms, reduction=self.reduction, picture=self.picture, zero=zero)

    def target_of_sums(self, sums: Tensor, shape: Sequence[float]) -> Tensor:
        """Return the Gram matrix ``(B, C, C)`` from the summed products of channels of the style image's map."""
        return sums / F.gram_divisor(self.gram_norm, shape)

    def _summed(self, features: Maps, guide: Tensor | None) -> tuple[Tensor, Sequence[float]]:
        if isinstance(features, Tensor):
            if self.is_smoothed:
                return F.channel_products(F.smoothed(features, self.temperature)), features.shape[1:]
            return super()._summed(features, guide)
        first, second = features
        height, width = max(first.shape[2:], second.shape[2:], key=lambda size: size[0] * size[1])
        channels = (first.shape[1] * second.shape[1]) ** 0.5
        return F.cross_products(first, second, self.shift, guide), (channels, height, width)

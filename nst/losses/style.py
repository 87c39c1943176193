"""Style losses: how far a layer's statistics are from the style image's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_choice, check_norm, check_positive


class GramLoss:
    """Squared difference of Gram matrices; the formula is ``functional.gram_loss``.

    Args:
        gram_norm: ``none``, ``N`` or ``CN``: what the Gram matrix is divided by.
        term_norm: ``relative``, ``none``, ``CN``, ``4C2``, ``4C2N2`` or a number: what the finished term is divided by.
        reduction: ``mean`` or ``sum`` over the matrix.
        scale: multiplies the style term as a whole.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(
        self,
        gram_norm: str = "N",
        term_norm: str | float = "relative",
        reduction: str = "mean",
        scale: float = 1.0,
    ) -> None:
        self.gram_norm = check_choice("gram_norm", gram_norm, F.GRAM_NORMS)
        self.term_norm = check_norm("term_norm", term_norm, F.TERM_NORMS)
        self.reduction = check_choice("reduction", reduction, F.REDUCTIONS)
        self.scale = check_positive("scale", scale)

    sums = staticmethod(F.channel_products)
    target_is_map = False

    def target(self, features: Tensor) -> Tensor:
        """Return what to keep of the style image's map ``(B, C, H, W)``: its Gram matrix ``(B, C, C)``."""
        return F.gram_matrix(features, self.gram_norm)

    def __call__(self, features: Tensor, target: Tensor, guide: Tensor | None = None) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        if guide is not None:
            features = features * guide.sqrt()
        return self.value(self.sums(features), target, features.shape[1:])

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[int]) -> Tensor:
        """Finish from the summed products of channels ``(B, C, C)``; ``shape`` is the map's ``(C, H, W)``."""
        return F.gram_value(sums, target, shape, self.gram_norm, self.term_norm, self.reduction)

    def target_of_sums(self, sums: Tensor, shape: Sequence[int]) -> Tensor:
        """Return what ``target`` would, from the summed products of channels of the style image's map."""
        return sums / F.gram_divisor(self.gram_norm, shape)

"""Style losses: how far a layer's statistics are from the style image's."""

from __future__ import annotations

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

    def target(self, features: Tensor) -> Tensor:
        """Return what to keep of the style image's map ``(B, C, H, W)``: its Gram matrix ``(B, C, C)``."""
        return F.gram_matrix(features, self.gram_norm)

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        return F.gram_loss(features, target, self.gram_norm, self.term_norm, self.reduction)

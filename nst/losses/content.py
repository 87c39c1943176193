"""Content losses: how far a layer's feature map is from the content image's."""

from collections.abc import Sequence

from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_choice, check_norm, check_positive


class MSELoss:
    """Mean (or summed) squared difference of feature maps; the formula is ``functional.content_loss``.

    Args:
        norm: ``relative`` (to the target's own size), ``none`` or a divisor.
        reduction: ``mean`` or ``sum``.
    """

    target_is_map = True
    sums = staticmethod(F.squared_differences)

    def __init__(self, norm: str | float = "relative", reduction: str = "mean", scale: float = 1.0) -> None:
        self.norm = check_norm("norm", norm, ("none", "relative"))
        self.reduction = check_choice("reduction", reduction, F.REDUCTIONS)
        self.scale = check_positive("scale", scale)

    def target(self, features: Tensor) -> Tensor:
        """Return what to keep of the content image's map ``(B, C, H, W)``: the map itself."""
        return features

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        return self.value(self.sums(features, target), target, features.shape[1:])

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[int]) -> Tensor:
        """Finish from the summed squared differences ``(B,)``; ``shape`` is the map's ``(C, H, W)``."""
        return F.content_value(sums, target, self.norm, self.reduction)

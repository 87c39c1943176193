"""Content losses: how far a layer's feature map is from the content image's."""

from collections.abc import Callable, Sequence

from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_choice, check_norm, check_positive, check_smoothing


class MSELoss:
    """Mean (or summed) squared difference of feature maps; the formula is ``functional.content_loss``.

    Args:
        norm: ``relative`` (to the target's own size), ``none`` or a divisor.
        reduction: ``mean`` or ``sum``.
        smoothing: ``none``, or ``softmax`` of both maps first; see ``functional.smoothed``. Then there are no tiles.
        temperature: what maps are divided by before the softmax.
    """

    target_is_map = True
    sums: Callable[..., Tensor] | None = staticmethod(F.squared_differences)

    def __init__(
        self,
        norm: str | float = "relative",
        reduction: str = "mean",
        scale: float = 1.0,
        smoothing: str = "none",
        temperature: float = 1.0,
    ) -> None:
        self.norm = check_norm("norm", norm, ("none", "relative"))
        self.reduction = check_choice("reduction", reduction, F.REDUCTIONS)
        self.scale = check_positive("scale", scale)
        self.is_smoothed = check_smoothing(smoothing, temperature)
        self.temperature = temperature
        if self.is_smoothed:
            self.sums = None

    def target(self, features: Tensor) -> Tensor:
        """Return what to keep of the content image's map ``(B, C, H, W)``: the map itself, or smoothed."""
        return F.smoothed(features, self.temperature) if self.is_smoothed else features

    def __call__(self, features: Tensor, target: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``."""
        if self.sums is None:
            return self.value(F.squared_differences(self.target(features), target), target, features.shape[1:])
        return self.value(self.sums(features, target), target, features.shape[1:])

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[int]) -> Tensor:
        """Finish from the summed squared differences ``(B,)``; ``shape`` is the map's ``(C, H, W)``."""
        return F.content_value(sums, target, self.norm, self.reduction, zero=1.0 if self.is_smoothed else 0.0)

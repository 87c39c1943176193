"""Terms of the picture itself, without a network."""

from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_choice


class TotalVariation:
    """Roughness of the picture; the formula is ``functional.total_variation``.

    Args:
        kind: ``squared``, ``absolute``, ``diagonal``, ``keras`` or ``laplacian``.
        reduction: ``mean`` or ``sum``.
    """

    def __init__(self, kind: str = "squared", reduction: str = "mean") -> None:
        self.kind = check_choice("tv_kind", kind, F.TV_KINDS)
        self.reduction = check_choice("tv_reduction", reduction, F.REDUCTIONS)

    def __call__(self, image: Tensor) -> Tensor:
        """Measure ``(B, 3, H, W)``; returns ``(B,)``."""
        return F.total_variation(image, self.kind, self.reduction)

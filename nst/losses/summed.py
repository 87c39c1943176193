"""What losses that are functions of sums over positions have in common."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_norm, check_positive


class FunctionOfSums:
    """A style loss made of ``sums``, ``target_of_sums`` and ``value``; see ``nst.losses.protocols.SummedLoss``.

    Args:
        norm: one of the class's ``norms``, or a divisor.
    """

    norms: ClassVar[Sequence[str]] = ("none", "relative", "li")
    target_is_map = False
    takes_guide = True
    sums: Callable[..., Tensor] | None

    def __init__(self, norm: str | float = "relative", scale: float = 1.0) -> None:
        self.norm = check_norm("norm", norm, self.norms)
        self.scale = check_positive("scale", scale)

    def target(self, features: Any, guide: Tensor | None = None) -> Tensor:
        """Return what to keep of the style image's map ``(B, C, H, W)``, its positions weighted by a guide if any."""
        return self.target_of_sums(*self._summed(features, guide))

    def __call__(self, features: Any, target: Tensor, guide: Tensor | None = None) -> Tensor:
        """Compare ``(B, C, H, W)`` with the target; returns ``(B,)``.

        ``guide``, ``(B or 1, 1, H, W)`` with the mean 1, weights the positions; of two maps it is the finer one's.
        """
        sums, shape = self._summed(features, guide)
        return self.value(sums, target, shape)

    def target_of_sums(self, sums: Tensor, shape: Sequence[float]) -> Tensor:
        """Return what ``target`` would, from the sums over the style image's map: here their mean."""
        return sums / (shape[1] * shape[2])

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[float]) -> Tensor:
        """Return ``(B,)`` from the sums; ``shape`` is the map's ``(C, H, W)``. Here |T(F) - T(S)|^2 of targets T."""
        distance = F.squared_error(self.target_of_sums(sums, shape), target, "sum")
        li = shape[0] / (shape[1] * shape[2])
        return distance / F.divisor(self.norm, lambda: target.square().flatten(1).sum(1), li=li)

    def _summed(self, features: Any, guide: Tensor | None) -> tuple[Tensor, Sequence[float]]:
        assert self.sums is not None
        return self.sums(features, guide=guide), features.shape[1:]

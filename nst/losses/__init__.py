"""Losses: pure formulas in ``functional``, and the small classes around them that a config names.

A content or style loss of one's own is any class with ``target(features)``, called once, and
``__call__(features, target)``, called every step, returning one value per image; see ``LayerLoss``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from nst.losses.combined import SumLoss
from nst.losses.content import MSELoss
from nst.losses.gram import GramLoss
from nst.losses.guided import Guided, is_guidable
from nst.losses.mmd import GaussianMMDLoss, LinearMMDLoss, PolynomialMMDLoss
from nst.losses.moments import MomentsLoss
from nst.losses.patches import MRFLoss
from nst.losses.regularization import TotalVariation
from nst.losses.similarity import RelaxedEMDLoss, SelfSimilarityLoss
from nst.losses.transport import HistogramLoss, SlicedWassersteinLoss
from nst.losses.wasserstein import GaussianWassersteinLoss

__all__ = [
    "GaussianMMDLoss",
    "GaussianWassersteinLoss",
    "GramLoss",
    "Guided",
    "HistogramLoss",
    "LayerLoss",
    "LinearMMDLoss",
    "MRFLoss",
    "MSELoss",
    "MomentsLoss",
    "PolynomialMMDLoss",
    "RelaxedEMDLoss",
    "SelfSimilarityLoss",
    "SlicedWassersteinLoss",
    "SumLoss",
    "SummedLoss",
    "TotalVariation",
    "is_guidable",
    "is_summed",
]


class LayerLoss(Protocol):
    """What a content or style loss must offer; it sees one layer at a time.

    What a loss may have beside these: an attribute ``scale`` multiplies the whole term (default 1). One whose
    ``couples_layers`` is true is given pairs of maps, of each layer and the next one listed. ``for_picture(height,
    width)`` returns the loss for a picture of that size. One whose ``summable`` is false is no ``SummedLoss``, whatever
    methods it has. One whose ``waits_for_the_device`` is true is not recorded as a part of a CUDA graph.
    """

    def target(self, features: Tensor) -> Any:
        """Return what is needed of the content or style image's map ``(B, C, H, W)``; called once, without gradient."""

    def __call__(self, features: Tensor, target: Any) -> Tensor:
        """Return ``(B,)``: how far each image's map ``(B, C, H, W)`` is from the target, differentiably."""


@runtime_checkable
class SummedLoss(LayerLoss, Protocol):
    """A loss that is a function of sums over positions, so that it can be summed up over the tiles of a large picture.

    Then ``loss(features, target)`` is ``loss.value(loss.sums(features, target), target, shape)``, where ``shape`` is
    the map's ``(C, H, W)``. The fused engine has fast ways to ``functional.channel_products`` and
    ``functional.squared_differences``; any other function will do. If ``target_is_map``, the target is a map of the
    same height and width and is cut into tiles with it; otherwise ``target_of_sums(sums, shape)`` makes the target of
    the sums, which are then taken with the target None.
    """

    sums: Callable[..., Tensor]
    target_is_map: bool

    def value(self, sums: Tensor, target: Any, shape: Sequence[int]) -> Tensor:
        """Return ``(B,)`` from the sums ``(B, ...)`` over all positions."""


def is_summed(loss: object) -> bool:
    """Tell whether a loss is a ``SummedLoss`` whose parts were not left behind by a subclass that changes the whole."""
    if not isinstance(loss, SummedLoss) or not getattr(loss, "summable", True):
        return False
    order = type(loss).__mro__

    def depth(name: str) -> int:
        return next(i for i, cls in enumerate(order) if name in vars(cls))

    whole_and_part = [("__call__", "value")] + ([] if loss.target_is_map else [("target", "target_of_sums")])
    return all(hasattr(loss, part) and depth(whole) >= depth(part) for whole, part in whole_and_part)

"""Losses: pure formulas in ``functional``, and the small classes around them that a config names.

A content or style loss of one's own is any class with ``target(features)``, called once, and
``__call__(features, target)``, called every step, returning one value per image; see ``LayerLoss``.
"""

from typing import Any, Protocol

from torch import Tensor

from nst.losses.content import MSELoss
from nst.losses.regularization import TotalVariation
from nst.losses.style import GramLoss

__all__ = ["GramLoss", "LayerLoss", "MSELoss", "TotalVariation"]


class LayerLoss(Protocol):
    """What a content or style loss must offer; it sees one layer at a time.

    An attribute ``scale``, if there is one, multiplies the whole term (default 1).
    """

    def target(self, features: Tensor) -> Any:
        """Return what is needed of the content or style image's map ``(B, C, H, W)``; called once, without gradient."""

    def __call__(self, features: Tensor, target: Any) -> Tensor:
        """Return ``(B,)``: how far each image's map ``(B, C, H, W)`` is from the target, differentiably."""

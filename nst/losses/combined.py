"""Several losses as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nst.errors import unknown
from nst.losses.protocols import DrawingLoss, LayerLoss, SizedLoss, traits
from nst.losses.settings import check_not_negative, check_positive


class SumLoss:
    """Several losses of the same layers: the sum of w_i s_i L_i, where s_i is the ``scale`` of the loss L_i itself.

    Args:
        losses: by name; none may couple layers.
        weights: w_i by the same names, 0 or more; what is left out has 1. A loss with 0 is not computed.
    """

    def __init__(
        self, losses: Mapping[str, Any], scale: float = 1.0, weights: Mapping[str, float] | None = None
    ) -> None:
        if not isinstance(losses, Mapping) or not losses:
            raise ValueError("losses must be a mapping from names to losses")
        for name, loss in losses.items():
            if not isinstance(loss, LayerLoss):
                raise ValueError(f"losses.{name} is no loss")
            if traits(loss).couples_layers or traits(loss).joins_layers:
                raise ValueError(f"losses.{name} compares layers with each other, which cannot be added to others")
        if strange := [name for name in weights or {} if name not in losses]:
            raise ValueError(unknown("loss of weights", strange[0], list(losses)))
        self.weights = {name: check_not_negative(f"weights.{name}", (weights or {}).get(name, 1.0)) for name in losses}
        self.losses = {name: loss for name, loss in losses.items() if self.weights[name]}
        if not self.losses:
            raise ValueError("every weight is 0, so that there is no loss left: raise one of weights")
        self.scale = check_positive("scale", scale)
        self.takes_guide = all(traits(loss).takes_guide for loss in self.losses.values())
        self.waits_for_the_device = any(traits(loss).waits_for_the_device for loss in self.losses.values())
        if any(isinstance(loss, DrawingLoss) for loss in self.losses.values()):  # only then is this one, too
            self.begin_step = self._begin_step

    def for_picture(self, height: int, width: int) -> SumLoss:
        """Return this loss for a picture of so many pixels, where one of the losses counts them."""
        sized = {
            name: loss.for_picture(height, width) if isinstance(loss, SizedLoss) else loss
            for name, loss in self.losses.items()
        }
        return SumLoss(sized, self.scale, {name: self.weights[name] for name in sized})

    def target(self, features: Tensor) -> dict[str, Any]:
        """Return what each loss keeps of the map ``(B, C, H, W)``."""
        return {name: loss.target(features) for name, loss in self.losses.items()}

    def __call__(self, features: Tensor, target: dict[str, Any], **guide: Tensor) -> Tensor:
        """Compare ``(B, C, H, W)`` with the targets; returns ``(B,)``. A guide is for losses that take one."""
        values = [
            self.weights[name] * float(traits(loss).scale) * loss(features, target[name], **guide)
            for name, loss in self.losses.items()
        ]
        return sum(values[1:], values[0])

    def _begin_step(self, step: int, seed: int) -> None:
        for loss in self.losses.values():
            if isinstance(loss, DrawingLoss):
                loss.begin_step(step, seed)

"""Several losses as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nst.losses.protocols import DrawingLoss, LayerLoss, SizedLoss, traits
from nst.losses.settings import check_positive


class SumLoss:
    """The sum of several losses, by name, of the same layers, each times its own ``scale``; none may couple layers."""

    def __init__(self, losses: Mapping[str, Any], scale: float = 1.0) -> None:
        if not isinstance(losses, Mapping) or not losses:
            raise ValueError("losses must be a mapping from names to losses")
        for name, loss in losses.items():
            if not isinstance(loss, LayerLoss):
                raise ValueError(f"losses.{name} is no loss")
            if traits(loss).couples_layers or traits(loss).joins_layers:
                raise ValueError(f"losses.{name} compares layers with each other, which cannot be added to others")
        self.losses = dict(losses)
        self.scale = check_positive("scale", scale)
        if any(isinstance(loss, DrawingLoss) for loss in self.losses.values()):  # only then is this one, too
            self.begin_step = self._begin_step

    def for_picture(self, height: int, width: int) -> SumLoss:
        """Return this loss for a picture of so many pixels, where one of the losses counts them."""
        sized = {
            name: loss.for_picture(height, width) if isinstance(loss, SizedLoss) else loss
            for name, loss in self.losses.items()
        }
        return SumLoss(sized, self.scale)

    def target(self, features: Tensor) -> dict[str, Any]:
        """Return what each loss keeps of the map ``(B, C, H, W)``."""
        return {name: loss.target(features) for name, loss in self.losses.items()}

    def __call__(self, features: Tensor, target: dict[str, Any]) -> Tensor:
        """Compare ``(B, C, H, W)`` with the targets; returns ``(B,)``."""
        values = [float(traits(loss).scale) * loss(features, target[name]) for name, loss in self.losses.items()]
        return sum(values[1:], values[0])

    def _begin_step(self, step: int, seed: int) -> None:
        for loss in self.losses.values():
            if isinstance(loss, DrawingLoss):
                loss.begin_step(step, seed)

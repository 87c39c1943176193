"""A style loss from outside the package: match each channel's mean and standard deviation (Li 2017, BN statistics)."""

import torch


class ChannelMoments:
    """Squared distance of channel means and standard deviations, relative to the target's own size.

    Args:
        scale: multiplies the style term as a whole.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def target(self, features: torch.Tensor) -> torch.Tensor:
        """Keep the moments ``(B, 2, C)`` of the style image's map ``(B, C, H, W)``; called once per layer."""
        return self.moments(features)

    def __call__(self, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return one value per image, ``(B,)``; called every step, differentiably."""
        difference = self.moments(features) - target
        return difference.square().sum((1, 2)) / target.square().sum((1, 2))

    @staticmethod
    def moments(features: torch.Tensor) -> torch.Tensor:
        """Return means and standard deviations over positions."""
        flat = features.flatten(2)
        return torch.stack([flat.mean(2), flat.std(2, correction=0)], dim=1)

"""From feature maps to one number to minimise: terms, their weights, and every layer's value under a stable name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nst.errors import UserError
from nst.losses import LayerLoss, TotalVariation

Features = dict[str, Tensor]
Shift = tuple[int, int]
COMBINATIONS = ("mean", "sum")


@dataclass
class Losses:
    """What one evaluation gives; every tensor is ``(B,)``, one value per image.

    ``content``, ``style`` and ``tv`` are weighted, so that they add up to ``total``. ``unweighted`` holds the terms
    before alpha, beta and tv, which can be compared between runs, and each layer's own value, under the tags
    ``unweighted/<term>``, ``content_layers/<name>`` and ``style_layers/<name>``.
    """

    total: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor
    unweighted: dict[str, Tensor] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor]:
        """Return every value, detached, under its tag."""
        terms = {
            "loss/total": self.total,
            "loss/content": self.content,
            "loss/style": self.style,
            "loss/tv": self.tv,
            **self.unweighted,
        }
        return {tag: value.detach() for tag, value in terms.items()}


class LayerTerm:
    """A loss over several layers, each with a weight: scale * sum of w_l * loss_l, or their weighted mean.

    Args:
        name: ``content`` or ``style``; it begins the layers' tags.
        loss: the loss of a single layer.
        weights: weight by layer name; may be empty, then the term is zero.
        combine: ``mean`` divides the weights by their sum, ``sum`` takes them as they are.
    """

    def __init__(self, name: str, loss: LayerLoss, weights: dict[str, float], combine: str) -> None:
        self.name = name
        self.loss = loss
        total = sum(weights.values()) if combine == "mean" else 1.0
        scale = float(getattr(loss, "scale", 1.0))
        self.weights = {layer: scale * weight / total for layer, weight in weights.items()}

    @torch.no_grad()
    def targets(self, features: Features) -> dict[str, Any]:
        """Take the targets of an image's feature maps."""
        return {layer: self.loss.target(features[layer]) for layer in self.weights}

    def __call__(self, features: Features, targets: dict[str, Any], like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the combined term ``(B,)`` and each layer's value ``(B,)`` by tag; ``like`` gives B without layers."""
        total = like.new_zeros(like.shape[0])
        values = {}
        for layer, weight in self.weights.items():
            value = self.loss(features[layer], targets[layer])
            if value.shape != like.shape[:1]:
                raise UserError(
                    f"{self.name}_loss {type(self.loss).__name__} returned shape {tuple(value.shape)} for {layer}; one "
                    f"value per image is needed, shape ({like.shape[0]},)."
                )
            values[f"{self.name}_layers/{layer}"] = value
            total = total + weight * value
        return total, values


class Objective:
    """The weighted sum that gradient descent makes small.

    Args:
        content: the content term.
        style: the style term.
        total_variation: the roughness of the picture.
        content_targets: the content term's targets for a shift of the picture (rows, columns).
        style_targets: the style term's targets.
        alpha: weight of the content term.
        beta: weight of the style term.
        tv: weight of the total variation.
    """

    def __init__(
        self,
        content: LayerTerm,
        style: LayerTerm,
        total_variation: TotalVariation,
        content_targets: Callable[[Shift], dict[str, Any]],
        style_targets: dict[str, Any],
        alpha: float,
        beta: float,
        tv: float,
    ) -> None:
        self.content = content
        self.style = style
        self.total_variation = total_variation
        self.content_targets = content_targets
        self.style_targets = style_targets
        self.alpha = alpha
        self.beta = beta
        self.tv = tv

    def __call__(self, features: Features, pixels: Tensor, shift: Shift = (0, 0)) -> Losses:
        """Evaluate the picture.

        Args:
            features: feature maps of the picture, shifted by ``shift``.
            pixels: ``(B, 3, H, W)``, not shifted, for the total variation.
            shift: rows and columns by which the picture was rolled before the network saw it.
        """
        content, content_layers = self.content(_for(self.alpha, features), self.content_targets(shift), pixels)
        style, style_layers = self.style(_for(self.beta, features), self.style_targets, pixels)
        variation = self.total_variation(pixels if self.tv else pixels.detach())

        total = self.alpha * content + self.beta * style + self.tv * variation

        terms = {"unweighted/content": content, "unweighted/style": style, "unweighted/tv": variation}
        weighted = (self.alpha * content, self.beta * style, self.tv * variation)
        return Losses(total, *weighted, terms | content_layers | style_layers)


def _for(weight: float, features: Features) -> Features:
    """Return the maps for a term: without gradient if its weight is 0, so that it is watched but costs no backward."""
    return features if weight else {layer: activation.detach() for layer, activation in features.items()}

"""From feature maps to one number to minimise: terms, their weights, and every layer's value under a stable name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nst.errors import UserError
from nst.losses.protocols import Layer, LayerLoss, traits
from nst.losses.regularization import TotalVariation

Shift = tuple[int, int]  # rows and columns that a picture is rolled by
Roll = Shift | tuple[Shift, ...]  # one shift for all images of a batch, or one for each
Weight = float | Tensor
COMBINATIONS = ("mean", "sum")
TERMS = ("content", "style", "tv")
HYPERCOLUMN = "hypercolumn"  # in the tags, all layers that a loss joins


class TargetRequest(NamedTuple):
    """A target to take of the map of a layer; of two layers the loss is given a pair of maps."""

    layer: Layer
    loss: Any  # a LayerLoss


class LossRequest(NamedTuple):
    """A loss to compute, likewise."""

    layer: Layer
    loss: Any
    target: Any  # what the loss kept of the content or style image; its batch size is 1 or the picture's


@dataclass
class Losses:
    """What one evaluation gives; every tensor is ``(B,)``, one value per image.

    ``content``, ``style`` and ``tv`` are weighted, so that they add up to ``total``. ``unweighted`` holds the terms
    before alpha, beta and tv, which can be compared between runs, and each layer's own value, under the tags
    ``unweighted/<term>``, ``content_layers/<name>`` and ``style_layers/<name>``; of several styles
    ``styles/<label>`` and ``style_layers/<label>/<name>``.
    """

    total: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor
    unweighted: dict[str, Tensor] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor]:
        """Return every value, detached, under its tag."""
        terms = {f"loss/{name}": getattr(self, name) for name in ("total", *TERMS)}
        return {tag: value.detach() for tag, value in (terms | self.unweighted).items()}

    def of(self, image: int) -> Losses:
        """Return the losses of one image of the batch, ``(1,)`` each."""
        one = slice(image, image + 1)
        unweighted = {tag: value[one] for tag, value in self.unweighted.items()}
        return Losses(self.total[one], self.content[one], self.style[one], self.tv[one], unweighted)


def together(weights: Sequence[float], like: Tensor) -> Weight:
    """Return the weights of a batch's images: a number where all are equal, else ``(B,)`` beside ``like``."""
    return weights[0] if len(set(weights)) == 1 else torch.tensor(weights, dtype=like.dtype, device=like.device)


class LayerTerm:
    """A loss over several layers, each with a weight: scale * sum of w_l * loss_l, or their weighted mean.

    Args:
        name: ``content`` or ``style``; it begins the layers' tags.
        loss: the loss of a single layer.
        weights: weight by layer name, a number or ``(B,)``; may be empty, then the term is zero.
        combine: ``mean`` divides the weights by their sum, ``sum`` takes them as they are.
        label: of one style of several, part of its layers' tags.
    """

    def __init__(
        self, name: str, loss: LayerLoss, weights: Mapping[str, Weight], combine: str, label: str = ""
    ) -> None:
        self.name, self.loss, self.label = name, loss, label
        self.layers: dict[str, Layer] = {layer: layer for layer in weights}
        if traits(loss).couples_layers:  # each layer and the next one listed, with the mean of their weights
            pairs = list(itertools.pairwise(weights))
            self.layers = {f"{a}-{b}": (a, b) for a, b in pairs}
            weights = {f"{a}-{b}": (weights[a] + weights[b]) / 2 for a, b in pairs}
        if traits(loss).joins_layers and weights:  # whose weights the loss has been told
            self.layers = {HYPERCOLUMN: tuple(weights)}
            weights = {HYPERCOLUMN: 1.0}
        total = sum(weights.values()) if combine == "mean" else 1.0
        scale = float(traits(loss).scale)
        self.weights: dict[str, Weight] = {layer: scale * weight / total for layer, weight in weights.items()}

    @classmethod
    def of_batch(
        cls,
        name: str,
        loss: LayerLoss,
        weights: Sequence[Mapping[str, float]],
        combine: str,
        like: Tensor,
        label: str = "",
    ) -> LayerTerm:
        """Return the term of a batch whose images have weights of their own for the same layers.

        Each weight is the very number that the image would have alone; ``like`` says where and in which precision.
        """
        alone = [cls(name, loss, of_image, combine, label) for of_image in weights]
        term = alone[0]
        term.weights = {layer: together([float(one.weights[layer]) for one in alone], like) for layer in term.weights}
        return term

    def target_requests(self) -> dict[str, TargetRequest]:
        """Return what to ask an engine for, by tag, to take the targets of an image."""
        return {self._tag(name): TargetRequest(layer, self.loss) for name, layer in self.layers.items()}

    def loss_requests(self, targets: dict[str, Any], loss: LayerLoss | None = None) -> dict[str, LossRequest]:
        """Return what to ask an engine for, by tag, to compare a picture with the targets, which are by tag, too.

        A ``loss`` takes the place of the term's own, such as one that looks at a region only.
        """
        return {
            tag: LossRequest(layer, loss or own, targets[tag]) for tag, (layer, own) in self.target_requests().items()
        }

    def __call__(self, values: dict[str, Tensor], like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the combined term ``(B,)`` and each layer's value ``(B,)`` by tag; ``like`` gives B without layers."""
        total = like.new_zeros(like.shape[0])
        seen = {}
        for layer, weight in self.weights.items():
            value = seen[self._tag(layer)] = values[self._tag(layer)]
            if value.shape != like.shape[:1]:
                raise UserError(
                    f"{self.name}_loss {type(self.loss).__name__} returned shape {tuple(value.shape)} for {layer}; one "
                    f"value per image is needed, shape ({like.shape[0]},)."
                )
            total = total + weight * value
        return total, seen

    def _tag(self, layer: str) -> str:
        return "/".join(part for part in (f"{self.name}_layers", self.label, layer) if part)


class Blend:
    """Several styles: the weighted mean of their terms.

    For losses that are squared errors with fixed norms it has the gradient of a single loss whose target is the
    weighted mean of the styles' (jcjohnson's blend).

    Args:
        terms: of each style, with labels of their own.
        weights: of each, a number; they are divided by their sum.
    """

    def __init__(self, terms: Sequence[LayerTerm], weights: Sequence[float]) -> None:
        self.terms = terms
        self.shares = [weight / sum(weights) for weight in weights]

    def __call__(self, values: dict[str, Tensor], like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the blended term ``(B,)``, and by tag each style's own and its layers' values ``(B,)``."""
        total = like.new_zeros(like.shape[0])
        seen: dict[str, Tensor] = {}
        for term, share in zip(self.terms, self.shares, strict=True):
            value, layers = term(values, like)
            total = total + share * value
            seen |= {f"styles/{term.label}": value, **layers}
        return total, seen


@dataclass
class Objective:
    """The weighted sum that gradient descent makes small.

    ``alpha``, ``beta`` and ``tv`` are the weights of the content term, the style term (or the blend of several) and the
    total variation of the picture, each a number or ``(B,)``.
    """

    content: LayerTerm
    style: LayerTerm | Blend
    total_variation: TotalVariation
    alpha: Weight
    beta: Weight
    tv: Weight

    def __post_init__(self) -> None:
        weights = zip(TERMS, (self.alpha, self.beta, self.tv), strict=True)
        self.counts = {name: bool(torch.as_tensor(weight).any()) for name, weight in weights}

    def __call__(self, values: dict[str, Tensor], pixels: Tensor) -> Losses:
        """Weight the terms of a picture: layers' values ``(B,)`` by tag, and pixels ``(B, 3, H, W)``, not shifted."""
        if not all(self.counts.values()):  # a term without weight is watched but costs no backward pass
            values = {tag: v if self.counts[tag.partition("_")[0]] else v.detach() for tag, v in values.items()}
        content, content_layers = self.content(values, pixels)
        style, style_layers = self.style(values, pixels)
        variation = self.total_variation(pixels if self.counts["tv"] else pixels.detach())

        total = self.alpha * content + self.beta * style + self.tv * variation

        terms = {"unweighted/content": content, "unweighted/style": style, "unweighted/tv": variation}
        weighted = (self.alpha * content, self.beta * style, self.tv * variation)
        return Losses(total, *weighted, terms | content_layers | style_layers)

"""Adaptive instance normalisation: one network that paints in the style of any image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst.errors import ConfigError
from nst.networks import backbones
from nst.networks import weights as weight_sources
from nst.transformers import layers
from nst.transformers.layers import ConditionalInstanceNorm, Convolution, Statistics

WEIGHTS = "torchvision"
PROBE = 64  # pixels of the picture that shows what the modules of an encoder do


@dataclass(frozen=True)
class Step:
    """What a module of an encoder does to the maps, and its mirror image must undo."""

    into: int  # channels that it is given
    out: int  # channels that it returns
    convolves: bool  # mixes positions and channels, rather than only normalise, rectify or pool
    shrinks: bool  # there are fewer positions afterwards


class AdaptiveTransformer(nn.Module):
    """Gives the maps of an image the statistics of a style image's, and paints from them (Huang & Belongie 2017).

    ``T = g((1 - strength) f(c) + strength AdaIN(f(c), f(s)))`` (eq. 14) with a frozen network f up to a layer, a
    decoder g that is trained, and ``AdaIN(x, y) = deviation(y) (x - mean(x)) / deviation(x) + mean(y)`` of each map
    (eq. 8). That is instance normalisation with the statistics of the style's maps as gains and biases: ``take_styles``
    makes rows of them, one for each style image, and a blend of rows is the paper's interpolation of styles (eq. 15).

    The decoder mirrors f: a 3x3 convolution for each of its convolutions and blocks, nearest neighbours where maps
    shrink, no normalisation (section 6.1). Departs from the paper: f is one of this package's backbones and keeps the
    zeros around its maps; the decoder repeats the border of its own instead of mirroring it, since they may be of one
    position; maps are brought back to the sizes that they had, so that pictures of any size keep theirs.

    Args:
        architecture: of f, see ``nst.networks.backbones.load``, as all arguments but the next ones.
        weights: of f. A network's file holds them, so that they are at hand only where it is trained.
        layer: of f, whose maps are given other statistics.
        pooling: of f.
        preprocessing: of f.
        strength: how much of the style's statistics the maps get; 0 leaves the image's, 1 is the whole style.
        styles: how many rows there are.

    Raises:
        UserError: the weights cannot be had.
    """

    def __init__(
        self,
        architecture: str = "vgg19",
        weights: str = WEIGHTS,
        layer: str = "relu4_1",
        pooling: str = "max",
        preprocessing: str = "auto",
        strength: float = 1.0,
        styles: int = 1,
    ) -> None:
        super().__init__()
        problems = layers.size_problems(styles=(styles, 1, 10_000))
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
            problems.append(f"transformer.strength={strength} must be a number from 0 to 1.")
        if problems:
            raise ConfigError(problems)
        self.styles, self.strength, self.layer = styles, float(strength), layer
        self.encoder = backbones.load(architecture, weights, [layer], pooling=pooling, preprocessing=preprocessing)
        self.steps = _steps(self.encoder)
        self.norm = ConditionalInstanceNorm(self.steps[-1].out, styles).requires_grad_(False)
        mirrored = [step for step in reversed(self.steps) if step.convolves]
        self.decoder = nn.ModuleList(
            Convolution(step.out, step.into, 3, styles=0, relu=step is not mirrored[-1], padding="replicate")
            for step in mirrored
        )
        self.colours = layers.Colours("linear")

    def train(self, mode: bool = True) -> AdaptiveTransformer:
        """Set the decoder's mode; the encoder never trains."""
        super().train(mode)
        self.encoder.eval()
        return self

    def take_styles(self, images: list[Tensor]) -> None:
        """Take the statistics of style images, each ``(1, 3, h, w)`` RGB in [0, 1], as the rows of the styles.

        There may be fewer or more of them than before; that is how a trained network gets a style that it never saw.
        """
        means, deviations = zip(*(self.statistics(image) for image in images), strict=True)
        self.norm.gain = nn.Parameter(torch.cat(deviations), requires_grad=False)
        self.norm.bias = nn.Parameter(torch.cat(means), requires_grad=False)
        self.styles = len(images)

    @torch.no_grad()
    def statistics(self, images: Tensor) -> Statistics:
        """Return mean and deviation ``(B, C)`` of f's maps of images ``(B, 3, H, W)``."""
        variance, mean = torch.var_mean(self.encode(images)[0], (2, 3), correction=0)
        return mean, variance.sqrt()

    def encode(self, images: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return f's maps of images ``(B, 3, H, W)``, and the sizes that they had before each module."""
        maps, sizes = self.encoder.preprocessing(images), []
        for module in self.encoder.stack:
            sizes.append((maps.shape[2], maps.shape[3]))
            maps = module(maps)
        return maps, sizes

    def target(self, maps: Tensor, blend: Tensor | None = None, statistics: Statistics | None = None) -> Tensor:
        """Return t, what maps ``(B, C, h, w)`` of f become (eq. 8, blended with ``strength`` as in eq. 14).

        ``blend`` and ``statistics`` are those of ``forward``.
        """
        if statistics is None:
            adapted: Tensor = self.norm(maps, blend)
        else:
            adapted = self.norm.with_rows(maps, statistics[1], statistics[0])
        return adapted if self.strength == 1 else torch.lerp(maps, adapted, self.strength)

    def decode(self, maps: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Paint RGB ``(B, 3, H, W)``, not clamped, from maps; ``sizes`` are those that ``encode`` returned."""
        convolutions = iter(self.decoder)
        for step, size in zip(reversed(self.steps), reversed(sizes), strict=True):
            maps = nnf.interpolate(maps, size=size, mode="nearest") if step.shrinks else maps
            maps = next(convolutions)(maps) if step.convolves else maps
        return self.colours.leave(maps, maps)

    def forward(self, images: Tensor, blend: Tensor | None = None, statistics: Statistics | None = None) -> Tensor:
        """Paint images ``(B, 3, H, W)``; see ``nst.transformers``.

        ``statistics`` are a mean and deviation ``(B or 1, C)`` in place of the rows: what the method returns.
        """
        layers.refuse_too_small(*images.shape[2:])
        maps, sizes = self.encode(images)
        return self.decode(self.target(maps, blend, statistics), sizes)


@torch.no_grad()
def _steps(encoder: backbones.Backbone) -> list[Step]:
    """Return what each module of an encoder does, seen from what it makes of a picture."""
    maps, steps = torch.zeros(1, 3, PROBE, PROBE), []
    for module in encoder.stack:
        before, maps = maps.shape, module(maps)
        convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
        steps.append(Step(before[1], maps.shape[1], convolves, maps.shape[2] < before[2]))
    return steps


def encoder_without_weights(weights: str = WEIGHTS, preprocessing: str = "auto", **others: object) -> dict[str, str]:
    """Return what to change of a network's arguments so that it is made without its encoder's weights."""
    if weights in weight_sources.PREPROCESSING_OF:
        preprocessing = backbones.chosen_preprocessing(weights, preprocessing)
    return {"weights": "random", "preprocessing": preprocessing}

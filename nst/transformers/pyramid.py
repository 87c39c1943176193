"""The multi-scale generator of Ulyanov et al., with instance normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst.errors import ConfigError
from nst.transformers import layers
from nst.transformers.layers import GAINS, OUTPUTS, ConditionalInstanceNorm, Convolution


class PyramidTransformer(nn.Module):
    """Paints a picture in one pass, from coarse to fine (Ulyanov 2016, figure 2; Ulyanov 2017).

    The image is averaged over squares of 32, 16, ... 1 pixels. At each size three convolutions make ``channels`` maps
    of it. The coarsest are doubled in size (nearest neighbours), put beside those of the next size, and both go through
    three more convolutions; and so on up to the finest, where a 1x1 convolution makes colours of all of them. Each
    convolution sees the border of the maps repeated, and is followed by instance normalisation and a ReLU; both
    branches are normalised again before they are put together. There is no noise: the authors leave it out where
    pictures are painted (models/pyramid.lua).

    Args:
        channels: maps that each size adds.
        levels: sizes.
        styles: how many styles it paints in; each has gains and biases of its own (Dumoulin 2017).
        output: how colours are made: ``bytes`` (as in the authors' code), ``linear``, ``added`` to the image or
            ``tanh``; see ``Colours``.
        gains: what normalisations multiply with at first: ``ones``, or ``uniform`` in [0, 1), as in the authors' code.
    """

    def __init__(
        self, channels: int = 8, levels: int = 6, styles: int = 1, output: str = "bytes", gains: str = "uniform"
    ) -> None:
        super().__init__()
        problems = layers.size_problems(channels=(channels, 1, 256), levels=(levels, 1, 8), styles=(styles, 1, 10_000))
        problems += layers.choice_problems(output=(output, OUTPUTS), gains=(gains, GAINS))
        if problems:
            raise ConfigError(problems)
        self.styles, self.levels = styles, levels
        self.colours = layers.Colours(output)
        self.branches = nn.ModuleList(_three(3, channels, styles) for _ in range(levels))
        self.branch_norms = nn.ModuleList(ConditionalInstanceNorm(channels, styles) for _ in range(levels - 1))
        widths = [channels * level for level in range(1, levels)]
        self.deep_norms = nn.ModuleList(ConditionalInstanceNorm(width, styles) for width in widths)
        wider = [width + channels for width in widths]
        self.joined = nn.ModuleList(_three(width, width, styles) for width in wider)
        self.last = Convolution(channels * levels, 3, 1, styles=0, relu=False)
        layers.draw_gains(self, gains)

    def forward(self, images: Tensor, blend: Tensor | None = None) -> Tensor:
        """Paint images ``(B, 3, H, W)``; see ``nst.transformers``.

        Where H and W are no multiple of 2^(levels - 1), the border is repeated on the right and below, and what is
        painted there is cut away.
        """
        height, width = images.shape[2:]
        layers.refuse_too_small(height, width)
        step = 2 ** (self.levels - 1)
        centred = self.colours.enter(images)
        whole = nnf.pad(centred, (0, -width % step, 0, -height % step), mode="replicate")
        deep = whole
        for level in range(self.levels):
            ratio = 2 ** (self.levels - 1 - level)
            coarse = nnf.avg_pool2d(whole, ratio) if ratio > 1 else whole
            maps = self.branches[level](coarse, blend)
            if level:
                deep = nnf.interpolate(deep, scale_factor=2.0, mode="nearest")
                parts = [self.deep_norms[level - 1](deep, blend), self.branch_norms[level - 1](maps, blend)]
                maps = self.joined[level - 1](torch.cat(parts, 1), blend)
            deep = maps
        return self.colours.leave(self.last(deep)[:, :, :height, :width], images)


def _three(into: int, out: int, styles: int) -> Through:
    """Return two 3x3 convolutions and one of 1x1."""
    sizes = ((into, 3), (out, 3), (out, 1))
    return Through(Convolution(size, out, kernel, styles=styles, padding="replicate") for size, kernel in sizes)


class Through(nn.ModuleList):
    """Convolutions, one after the other."""

    def forward(self, maps: Tensor, blend: Tensor | None) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', H, W)``."""
        for convolution in self:
            maps = convolution(maps, blend)
        return maps

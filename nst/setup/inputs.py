"""What a job works on: its images, where each style goes, what stays the content's, and whose colours there are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from nst import configuration, runtime
from nst.errors import UserError
from nst.images import color, rgb
from nst.images.canvas import Canvas
from nst.images.palette import Palette, palette
from nst.images.pixels import PixelSpace
from nst.losses import is_guidable


@dataclass
class Inputs:
    """What a job works on.

    Attributes:
        content: ``(1, 3, H, W)`` RGB in [0, 1].
        styles: ``(1, 3, H', W')`` each, RGB in [0, 1].
        shape: (width, height) to save at, if not the pixels' own: a squeezed picture gets its aspect ratio back.
        masks: of each style ``(1, 1, H, W)`` in [0, 1], where it goes, or None for everywhere.
        protected: ``(1, 1, H, W)`` in [0, 1], where the content stays as it is, or None.
        colors: the content image in colour, where only its luminance is painted, or None.
        palettes: of each style, where the picture is shown in the content's colours brought to the style's.
        start: the picture that the scale begins with, ``(1, 3, H, W)`` RGB, not clamped; None: the content.
    """

    content: Tensor
    styles: list[Tensor]
    shape: tuple[int, int] | None = None
    masks: list[Tensor | None] = field(default_factory=list)
    protected: Tensor | None = None
    colors: Tensor | None = None
    palettes: list[Palette] = field(default_factory=list)
    start: Tensor | None = None

    @property
    def style(self) -> Tensor:
        """The first style."""
        return self.styles[0]

    def canvas(self, space: PixelSpace) -> Canvas:
        """Return what becomes of the pixels."""
        return Canvas(space, self.content, self.protected, self.colors, palettes=self.palettes)

    def regions(self) -> list[Tensor | None]:
        """Return where each style is to be looked for ``(1, 1, H, W)``: in its mask, and not where nothing is painted.

        Raises:
            UserError: there is nothing left of a region.
        """
        if self.protected is None:
            return self.masks or [None] * len(self.styles)
        free = 1 - self.protected
        regions = [free if mask is None else mask * free for mask in self.masks or [None] * len(self.styles)]
        if not all(bool(region.any()) for region in regions if not region.is_meta):
            raise UserError("content_mask protects all of the picture, or of a style's region: nothing can be painted.")
        return list(regions)


def load_images(config: DictConfig, device: torch.device) -> Inputs:
    """Load the images of a job.

    Raises:
        UserError: an image cannot be had.
    """
    dtype = runtime.pixel_dtype(config.precision)
    listed = configuration.styles(config)
    resample, background = config.resample, config.background
    content = rgb.load(config.content, config.size, config.fit, resample, background)
    shape = content.shape[3], content.shape[2]
    in_style = {"shape": shape if config.style_fit == "content" else None, "background": background}
    style_fit = config.style_fit or config.fit
    styles = [rgb.load(one.image, one.size, style_fit, resample, **in_style) for one in listed]
    natural = rgb.unsqueezed(config.content, config.size) if config.fit == "square" else None
    masks = [rgb.load_mask(one.mask, shape, natural or shape) if one.mask is not None else None for one in listed]
    protected = rgb.load_mask(config.content_mask, shape, natural or shape) if config.content_mask is not None else None
    seen, styles = color.prepare(config.color, content, styles)
    inputs = Inputs(
        seen.to(device, dtype),
        [style.to(device, dtype) for style in styles],
        shape=natural,
        masks=[mask if mask is None else mask.to(device, dtype) for mask in masks],
        protected=None if protected is None else protected.to(device, dtype),
        colors=content.to(device, dtype) if config.color == "luminance" else None,
    )
    if config.color == "recolored":
        shares = shares_of(listed, inputs)
        pairs = zip(inputs.styles, shares, strict=True)
        inputs.palettes = [palette(inputs.content, style, share / torch.stack(shares).sum(0)) for style, share in pairs]
    return inputs


def shares_of(styles: Sequence[configuration.Style], inputs: Inputs) -> list[Tensor]:
    """Return how much each style counts at each pixel ``(1, 1, H, W)``, above 0: in its mask, by its weight."""
    whole = torch.ones_like(inputs.content[:, :1])
    masks = inputs.masks or [None] * len(styles)
    return [
        (whole if mask is None else mask).clamp(min=1e-6) * style.weight
        for style, mask in zip(styles, masks, strict=True)
    ]


def regions_for(inputs: Inputs, loss: Any) -> list[Tensor | None]:
    """Return the regions of the styles; what is protected is looked at as well by a loss that knows no regions.

    Raises:
        UserError: there are masks for a loss that knows no regions, or there is nothing left of a region.
    """
    if is_guidable(loss):
        return inputs.regions()
    if any(mask is not None for mask in inputs.masks):
        raise UserError(f"style_masks: {type(loss).__name__} cannot be confined to a region.")
    return [None] * len(inputs.styles)


def blend_weights(styles: Sequence[configuration.Style], regions: Sequence[Tensor | None]) -> list[float]:
    """Return the weight of each style: a region's grows with its area, so that small ones are not painted more."""
    areas = [1.0 if region is None or region.is_meta else float(region.mean()) for region in regions]
    return [style.weight * area for style, area in zip(styles, areas, strict=True)]


def labels_of(names: Sequence[str]) -> list[str]:
    """Return a label for each style, made of the file's name; none where there is only one style."""
    if len(names) == 1:
        return [""]
    stems = [re.sub(r"\W+", "_", Path(name).stem) or "style" for name in names]
    distinct = len(set(stems)) == len(stems)
    return stems if distinct else [f"{place}_{stem}" for place, stem in enumerate(stems, 1)]

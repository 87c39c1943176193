"""The picture that a run starts from."""

import torch
from omegaconf import DictConfig
from torch import Tensor

from nst import configuration, runtime
from nst.images.bands import finest_band
from nst.images.pixels import PixelSpace
from nst.networks.backbones import Backbone
from nst.setup.inputs import Inputs, shares_of

RECOLORED = "nst.optimization.initial.from_recolored"


def start(config: DictConfig, inputs: Inputs, backbone: Backbone) -> Tensor:
    """Return the start, ``(1, 3, H, W)`` in the configuration's pixel space.

    It is made of the first style, but recoloured in each style's region, or as they are weighted, where there are more.
    """
    space = PixelSpace(config.pixel_space, backbone.preprocessing)

    def make(style: Tensor) -> Tensor:
        with runtime.seeded(config.seed):
            picture: Tensor = configuration.build(config.init)(
                content=inputs.content, style=style, space=space, seed=config.seed
            )
        return picture

    if len(inputs.styles) == 1 or config.init.get("_target_") != RECOLORED:
        return make(inputs.style)
    shares = shares_of(configuration.styles(config), inputs)
    total = torch.stack(shares).sum(0)
    pictures = [make(style) * share / total for style, share in zip(inputs.styles, shares, strict=True)]
    return torch.stack(pictures).sum(0)


def detail(config: DictConfig, inputs: Inputs, backbone: Backbone) -> Tensor | None:
    """Return what ``schedule.detail`` adds to the picture of the scale before: the content's smallest details, or None.

    ``(1, 3, H, W)`` in the configuration's pixel space. STROTSS begins its further scales so (Kolkin 2019, code).
    """
    share = config.schedule.get("detail", 0.0)
    space = PixelSpace(config.pixel_space, backbone.preprocessing)
    return share * finest_band(space.encode(inputs.content)) if share else None

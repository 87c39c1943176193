"""The spaces an image lives in: RGB in [0, 1], what the network's weights expect, and where the optimiser works."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

PIXEL_SPACES = ("unit", "network")
RGB = "rgb"  # the name of the picture itself where it stands among the layers of a network


@dataclass(frozen=True)
class Preprocessing:
    """An affine map from RGB in [0, 1] to what a network was trained on: ``(image * scale - mean) / std``."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # per channel, in the scaled units, in RGB order
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)  # likewise
    scale: float = 1.0  # 255 for networks fed with bytes
    bgr: bool = False  # the network wants blue first

    def __call__(self, image: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` RGB in [0, 1] to the network's space, differentiably."""
        if self == Preprocessing():
            return image
        weight, bias = self._affine(image.dtype, image.device)
        mapped = image * weight + bias
        return mapped.flip(1) if self.bgr else mapped

    def inverse(self, mapped: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` from the network's space back to RGB in [0, 1]."""
        if self == Preprocessing():
            return mapped
        image = mapped.flip(1) if self.bgr else mapped
        weight, bias = self._affine(image.dtype, image.device)
        return (image - bias) / weight

    @functools.lru_cache(maxsize=32)  # noqa: B019 - a handful of frozen instances, and no copy to the device in the loop
    def _affine(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (self.scale / std).to(device, dtype), (-mean / std).to(device, dtype)


CAFFE_MEAN = (123.68, 116.779, 103.939)  # of ImageNet's bytes, as the original VGG release subtracts it
PREPROCESSINGS = {
    "none": Preprocessing(),
    "imagenet": Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    # torchvision's weights fed with bytes less their mean (gordicaleksa/pytorch-neural-style-transfer, utils.py): not
    # divided by a deviation, contrasts are 255 * 0.226 = 58 times those that the network was trained on
    "imagenet255": Preprocessing(mean=(123.675, 116.28, 103.53), scale=255.0),
    "caffe": Preprocessing(mean=CAFFE_MEAN, scale=255.0, bgr=True),
    # white is 256, not 255 (jcjohnson/neural-style, `preprocess`; Li 2017's neural-style.py too, with red first)
    "caffe256": Preprocessing(mean=CAFFE_MEAN, scale=256.0, bgr=True),
}


@dataclass(frozen=True)
class PixelSpace:
    """Where the optimiser works: learning rates, noise amplitudes and clamps are in these units.

    ``unit`` is RGB in [0, 1]; ``network`` is the network's own input, for instance mean-subtracted 0..255 with Caffe
    weights, as most published recipes have it.
    """

    name: str
    preprocessing: Preprocessing

    def encode(self, image: Tensor) -> Tensor:
        """Map RGB in [0, 1] to the pixels that are optimised."""
        return self.preprocessing(image) if self.name == "network" else image

    def decode(self, pixels: Tensor) -> Tensor:
        """Map optimised pixels to RGB, not clamped."""
        return self.preprocessing.inverse(pixels) if self.name == "network" else pixels

    def to_network(self, pixels: Tensor) -> Tensor:
        """Map optimised pixels to the network's input."""
        return pixels if self.name == "network" else self.preprocessing(pixels)

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels of black and of white, ``(1, 3, 1, 1)`` each, the range that clamping keeps to."""
        black = torch.zeros(1, 3, 1, 1, dtype=like.dtype, device=like.device)
        return self.encode(black), self.encode(black + 1)


def with_margin(pixels: Tensor, margin: int) -> Tensor:
    """Continue a picture beyond its border by reflection, so that the network's zero padding leaves no frame on it.

    Built from flips, since the backward pass of torch's own reflection padding gives different bits each time on a GPU.
    ``(B, C, H, W)`` becomes ``(B, C, H + 2 margin, W + 2 margin)``, with margins of at most H - 1 and W - 1.
    """
    for axis in (2, 3):
        size = pixels.shape[axis]
        width = min(margin, size - 1)
        if width:
            before = pixels.narrow(axis, 1, width).flip(axis)
            after = pixels.narrow(axis, size - 1 - width, width).flip(axis)
            pixels = torch.cat([before, pixels, after], axis)
    return pixels


def extended(maps: Tensor, width: int, mode: str) -> Tensor:
    """Continue maps beyond their border by so many positions, as a convolution's padding does; from pieces, as above.

    The mode ``replicate`` repeats the border; ``reflect`` mirrors what lies behind it, the border not repeated, and
    raises RuntimeError if maps are too small for that.
    """
    if mode == "reflect":
        if min(maps.shape[2:]) <= width:
            raise RuntimeError(f"Maps of {maps.shape[3]} x {maps.shape[2]} are too small to be mirrored by {width}.")
        return with_margin(maps, width)
    for axis in (2, 3):
        first, last = (maps.narrow(axis, place, 1) for place in (0, maps.shape[axis] - 1))
        maps = torch.cat([first] * width + [maps] + [last] * width, axis)
    return maps

"""The picture that gradient descent starts from: content, in its colours or the style's, style, noise, or a file.

Every function takes the content and style images, ``(1, 3, H, W)`` RGB in [0, 1], the pixel space and a seed, and
returns the start ``(1, 3, H, W)`` in that pixel space, at the content's size.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nst.images.bands import finest_band
from nst.images.color import match_pca
from nst.images.pixels import PixelSpace
from nst.images.rgb import load
from nst.losses.settings import check_choice, check_finite, check_positive

DISTRIBUTIONS = ("uniform", "normal")


def from_content(content: Tensor, style: Tensor, space: PixelSpace, seed: int) -> Tensor:
    """Start from the content image."""
    return space.encode(content)


def from_recolored(content: Tensor, style: Tensor, space: PixelSpace, seed: int) -> Tensor:
    """Start from the content image in the style's colours: their mean and covariance are matched.

    Colours are what descent is slowest to change over large parts of a picture. See ``nst.images.color.match_pca``.
    """
    return space.encode(match_pca(content, style).clamp(0, 1))


def from_style(content: Tensor, style: Tensor, space: PixelSpace, seed: int) -> Tensor:
    """Start from the style image, stretched to the content's size."""
    return space.encode(_stretched(style, content))


def from_noise(
    content: Tensor,
    style: Tensor,
    space: PixelSpace,
    seed: int,
    distribution: str = "uniform",
    center: float = 0.5,
    amplitude: float = 0.5,
) -> Tensor:
    """Start from seeded white noise, drawn on the CPU so that every device starts alike.

    Args:
        content: gives the size.
        style: not used.
        space: not used: ``center`` and ``amplitude`` are in its units already.
        seed: of the noise.
        distribution: ``uniform`` between center - amplitude and center + amplitude, or ``normal`` with standard
            deviation ``amplitude``.
        center: middle of the distribution, in the units of the pixel space.
        amplitude: half the width, or the standard deviation, in the units of the pixel space.

    Raises:
        ValueError: there is no such distribution, or the amplitude is not above 0.
    """
    check_choice("init.distribution", distribution, DISTRIBUTIONS)
    check_finite("init.center", center)
    check_positive("init.amplitude", amplitude)
    generator = torch.Generator().manual_seed(seed)
    if distribution == "uniform":
        noise = torch.rand(content.shape, generator=generator) * 2 - 1
    else:
        noise = torch.randn(content.shape, generator=generator)
    return center + amplitude * noise.to(content)


def from_style_color(
    content: Tensor,
    style: Tensor,
    space: PixelSpace,
    seed: int,
    distribution: str = "normal",
    amplitude: float = 0.01,
) -> Tensor:
    """Start from the style's mean colour with white noise on it (Heitz 2021, texture_optimization_slicing.py).

    Args:
        content: gives the size.
        style: gives the colour.
        space: the pixel space; the noise is added there.
        seed: of the noise.
        distribution: see ``from_noise``, as for ``amplitude``.

    Raises:
        ValueError: an argument is out of its range.
    """
    color = style.mean((2, 3), keepdim=True)
    return space.encode(color) + from_noise(
        content, style, space, seed, distribution=distribution, center=0.0, amplitude=amplitude
    )


def from_detail(content: Tensor, style: Tensor, space: PixelSpace, seed: int) -> Tensor:
    """Start from the content's smallest details on the style's mean colour (Kolkin 2019, code of STROTSS)."""
    return space.encode(style.mean((2, 3), keepdim=True) + finest_band(content))


def from_blend(
    content: Tensor,
    style: Tensor,
    space: PixelSpace,
    seed: int,
    noise: float = 0.5,
    distribution: str = "uniform",
    center: float = 0.5,
    amplitude: float = 0.5,
) -> Tensor:
    """Start between the content image and noise: (1 - noise) * content + noise * white noise.

    Args:
        content: the picture at ``noise=0``.
        style: not used.
        space: the pixel space in which the two are mixed.
        seed: of the noise.
        noise: share of the noise, 0 to 1.
        distribution: see ``from_noise``, as for ``center`` and ``amplitude``.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"init.noise={noise} must be between 0 (content only) and 1 (noise only)")
    drawn = from_noise(content, style, space, seed, distribution=distribution, center=center, amplitude=amplitude)
    return (1 - noise) * space.encode(content) + noise * drawn


def from_file(content: Tensor, style: Tensor, space: PixelSpace, seed: int, path: str) -> Tensor:
    """Start from an image file (or sample), for instance an earlier result, stretched to the content's size.

    Raises:
        UserError: the file is missing or broken.
    """
    longest = max(content.shape[-2:])
    return space.encode(_stretched(load(path, longest).to(content), content))


def _stretched(image: Tensor, like: Tensor) -> Tensor:
    """Resize to the height and width of ``like``."""
    if image.shape == like.shape:
        return image
    size = (like.shape[2], like.shape[3])
    return interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)

"""The content's colours in the style's palette: the last step of Kolkin et al. 2022, "Neural Neighbor Style Transfer".

Images are ``(B, 3, H, W)`` RGB in [0, 1]. What their paper says in a sentence is done as in their code,
``utils/colorization.py``: in Oklab (Ottosson 2020), a space of a lightness L and two colour channels a and b, with his
first matrices; and fed with the pixels as they are stored, where Oklab wants linear light. L is the painted picture's,
cut off at the style's range. The content's a and b get the mean and covariance of the style's, are smoothed along the
edges of that L, and cut off at the style's ranges. If the style has hardly any colours, the picture's own L, a and b
get the style's mean and covariance instead.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from nst.images.color import moments, symmetric_root

LMS = ((0.4121656120, 0.5362752080, 0.0514575653), (0.2118591070, 0.6807189584, 0.1074065790),
       (0.0883097947, 0.2818474174, 0.6302613616))  # of RGB  # fmt: skip
LAB = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
       (0.0259040371, 0.7827717662, -0.8086757660))  # of the cubic roots of LMS  # fmt: skip
ROOTS = ((1.0, 0.3963377774, 0.2158037573), (1.0, -0.1055613458, -0.0638541728),
         (1.0, -0.0894841775, -1.2914855480))  # of Lab: the way back, which is theirs and no exact inverse  # fmt: skip
RGB = ((4.0767245293, -3.3072168827, 0.2307590544), (-1.2681437731, 2.6093323231, -0.3411344290),
       (-0.0041119885, -0.7034763098, 1.7068625689))  # of LMS  # fmt: skip
RIDGE = 1e-4  # added to the variances
COLORLESS = 6e-5  # a style whose variances and covariance of a and b are all below has hardly any colours
ROUNDS, STRIP = 5, 256  # of smoothing; rows that are smoothed at once, which bounds the memory


@dataclass(frozen=True)
class Palette:
    """The colours of a style, and the content's brought to them.

    Attributes:
        low: of L, a and b in the style, ``(1, 3, 1, 1)``; ``high`` likewise.
        mean: of the style, ``(1, 3, 1)`` in float64 on the CPU, as the ``covariance``, ``(1, 3, 3)``.
        colors: the content's a and b with the style's mean and covariance, ``(1, 2, H, W)``; None of a style without.
        share: of the picture that gets these colours, where there are several styles: a number, or ``(1, 1, H, W)``.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    covariance: Tensor
    colors: Tensor | None
    share: float | Tensor = 1.0


def palette(content: Tensor, style: Tensor, share: float | Tensor = 1.0) -> Palette:
    """Return the palette of a style ``(1, 3, H', W')`` for a content ``(1, 3, H, W)``, beside which it lies."""
    wanted = oklab(style.to(content))
    _, mean, covariance = moments(wanted)
    colors = None
    if covariance[:, 1:, 1:].abs().max() >= COLORLESS:
        colors = matched(oklab(content)[:, 1:], mean[:, 1:], covariance[:, 1:, 1:])
    low, high = wanted.amin((2, 3), True), wanted.amax((2, 3), True)
    return Palette(low, high, mean, covariance, colors=colors, share=share)


def recolored(picture: Tensor, palettes: list[Palette]) -> Tensor:
    """Return a picture ``(B, 3, H, W)``, cut off at black and white, in the colours of palettes, each by its share."""
    return torch.stack([one.share * _recolored(oklab(picture), one) for one in palettes]).sum(0)


def _recolored(lab: Tensor, own: Palette) -> Tensor:
    lightness = lab[:, :1].clamp(own.low[:, :1], own.high[:, :1])
    if own.colors is None:
        lab = matched(torch.cat([lightness, lab[:, 1:]], 1), own.mean, own.covariance)
    else:
        lab = torch.cat([lightness, smoothed(own.colors, lightness)], 1)
    return rgb_of(lab.clamp(own.low, own.high))


def oklab(image: Tensor) -> Tensor:
    """Return L, a and b ``(B, 3, H, W)`` of an image, cut off at black and white."""
    return _mixed(LAB, _mixed(LMS, image.clamp(0, 1)).pow(1 / 3))


def rgb_of(lab: Tensor) -> Tensor:
    """Return the image of L, a and b ``(B, 3, H, W)``, cut off at black and white."""
    return _mixed(RGB, _mixed(ROOTS, lab).pow(3)).clamp(0, 1)


def matched(channels: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Give channels ``(B, C, H, W)`` a mean ``(1, C, 1)`` and, but for the ridge, a covariance ``(1, C, C)`` (ZCA)."""
    centred, _, own = moments(channels)
    ridge = RIDGE * torch.eye(channels.shape[1], dtype=own.dtype)
    mapped = symmetric_root(covariance + ridge) @ torch.linalg.inv(symmetric_root(own + ridge)) @ centred + mean
    return mapped.reshape(channels.shape).to(channels)


def smoothed(colors: Tensor, lightness: Tensor) -> Tensor:
    """Average colours ``(1, 2, H, W)`` with their eight neighbours, five times, within areas of one lightness.

    A neighbour counts exp(-10 |difference of lightness|), of ``(B, 1, H, W)``; at the border the last row repeats.
    """
    height, halo = lightness.shape[2], ROUNDS  # a round carries what is amiss at a cut one row further
    strips = []
    for top in range(0, height, STRIP):
        first, last = max(0, top - halo), min(height, top + STRIP + halo)
        strip = _smoothed(colors[:, :, first:last], lightness[:, :, first:last])
        strips.append(strip[:, :, top - first : top - first + STRIP])
    return torch.cat(strips, 2)


def _smoothed(colors: Tensor, lightness: Tensor) -> Tensor:
    weights = [(-10 * (other - lightness).abs()).exp() for other in _neighbours(lightness)]
    total = torch.stack(weights).sum(0)
    for _ in range(ROUNDS):
        parts = zip(weights, _neighbours(colors), strict=True)
        colors = sum((weight * other for weight, other in parts), torch.zeros_like(colors)) / total
    return colors


def _neighbours(channels: Tensor) -> list[Tensor]:
    """Return each position's 3 x 3 neighbours, itself among them, as nine maps."""
    height, width = channels.shape[2:]
    padded = pad(channels, (1, 1, 1, 1), mode="replicate")
    return [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]


def _mixed(matrix: tuple[tuple[float, ...], ...], channels: Tensor) -> Tensor:
    """Return the channels ``(B, 3, H, W)`` multiplied by a matrix."""
    rows = torch.tensor(matrix, dtype=channels.dtype, device=channels.device) @ channels.flatten(2)
    return rows.unflatten(2, channels.shape[2:])

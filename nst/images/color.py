"""Keeping the content's colours: the formulas of Gatys et al. 2017, "Controlling Perceptual Factors", section 5.

Images are ``(B, 3, H, W)`` RGB in [0, 1], float32 or float64; a content image of batch size 1 serves a whole batch.
Nothing is clamped: a result may leave [0, 1] slightly, and who shows it to a network or saves it clamps it. Statistics
are taken in float64 on the CPU, once for a picture. A style is ``(B, 3, H', W')``, and so is what it becomes.

Luminance is Y of YIQ, the colour space of NTSC television:

    Y = 0.299 R + 0.587 G + 0.114 B
    I = 0.596 R - 0.274 G - 0.322 B
    Q = 0.211 R - 0.523 G + 0.312 B

The rows of I and Q sum to 0: a grey has no I and Q, and adding the same to R, G and B changes Y alone.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)
COLORS = ("style", "luminance", "match_pca", "match_cholesky", "match_histogram", "recolored")
FLAT = (2 / 255) ** 2  # a variance that rounding and JPEG leave in a grey scan; stretched, it would be bright blocks


def prepare(kind: str, content: Tensor, styles: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the content and the style images as the network is to see them.

    Args:
        kind: ``style`` and ``recolored`` (see ``nst.images.palette``) leave them as they are; ``luminance`` takes the
            colours out of all and matches the styles' luminance to the content's; ``match_pca``, ``match_cholesky``
            and ``match_histogram`` give the styles the content's colours.
        content: ``(1, 3, H, W)``.
        styles: ``(1, 3, H', W')`` each; what is returned has the same sizes, in [0, 1].
    """
    if kind in ("style", "recolored"):
        return content, list(styles)
    if kind == "luminance":
        grey = luminance(content)
        matched = [match_luminance(luminance(style), grey).expand(-1, 3, -1, -1) for style in styles]
        return grey.expand(-1, 3, -1, -1).contiguous(), [style.clamp(0, 1) for style in matched]
    match = {"match_pca": match_pca, "match_cholesky": match_cholesky, "match_histogram": match_histogram}[kind]
    return content, [match(style, content).clamp(0, 1) for style in styles]


def luminance(image: Tensor) -> Tensor:
    """Return Y ``(B, 1, H, W)`` of an image."""
    return (image * _weights(image.dtype, image.device)).sum(1, keepdim=True)


@functools.lru_cache(maxsize=8)  # no copy to the device in the loop
def _weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(LUMINANCE, dtype=dtype, device=device).view(3, 1, 1)


def with_luminance(content: Tensor, luminance_map: Tensor) -> Tensor:
    """Return an image ``(B, 3, H, W)`` with the I and Q of one, and a luminance ``(B, 1, H, W)`` as Y (section 5.1)."""
    return content + (luminance_map - luminance(content))


def match_luminance(style: Tensor, content: Tensor) -> Tensor:
    """Give a style's luminance ``(B, 1, H', W')`` the mean and standard deviation of the content's (section 5.1).

    Where it is constant, so is the result.
    """
    centred, _, variance = moments(style)
    _, mean, wanted = moments(content)
    scale = torch.where(variance > FLAT, (wanted / variance.clamp(min=FLAT)).sqrt(), 0.0)
    return _as(scale * centred + mean, style)


def match_pca(style: Tensor, content: Tensor) -> Tensor:
    """Map the style's colours linearly, so that their mean and covariance are the content's: x' = A (x - m_s) + m_c.

    A = S_c^{1/2} S_s^{-1/2} with symmetric roots of the covariances, as in Image Analogies (section 5.2). Along
    a direction in which the style's colours hardly vary (a standard deviation below 2 of 255: a grey style, a single
    colour) there is nothing to stretch: the pseudo-inverse leaves it out, and the covariance is matched in the others.
    """
    return _mapped(style, content, symmetric_root)


def match_cholesky(style: Tensor, content: Tensor) -> Tensor:
    """Do as ``match_pca`` with A = L_c L_s^{-1}, the Cholesky factors of the covariances (section 5.2)."""
    return _mapped(style, content, _cholesky_factor)


def match_histogram(style: Tensor, content: Tensor) -> Tensor:
    """Give each channel of the style the histogram of the content's: every value goes to that of equal rank.

    A rank is the share of pixels that are no brighter; between two ranks of the content, values are interpolated
    linearly. A channel that is constant goes to the content's brightest value.
    """
    pairs = zip(style, content.expand(len(style), -1, -1, -1), strict=True)
    matched = [[_equal_rank(*channels) for channels in zip(*pair, strict=True)] for pair in pairs]
    return _as(torch.stack([torch.stack(channels) for channels in matched]), style)


def moments(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels ``(B, C, N)`` less their mean ``(B, C, 1)``, that mean, and the covariance ``(B, C, C)``."""
    pixels = image.detach().to("cpu", torch.float64).flatten(2)
    mean = pixels.mean(2, keepdim=True)
    centred = pixels - mean
    return centred, mean, centred @ centred.mT / pixels.shape[2]


def _mapped(style: Tensor, content: Tensor, root: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the style's colours after the linear map that is made of a root of either covariance."""
    centred, _, covariance = moments(style)
    _, mean, wanted = moments(content)
    whitening = torch.linalg.pinv(root(covariance), atol=FLAT**0.5, rtol=0.0)
    return _as(root(wanted) @ whitening @ centred + mean, style)


def symmetric_root(covariance: Tensor) -> Tensor:
    """Return the symmetric S with S S = the covariance ``(B, C, C)``."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()[:, None] @ vectors.mT


def _cholesky_factor(covariance: Tensor) -> Tensor:
    """Return the lower triangular L, its diagonal not negative, with L L^T = the covariance, which may be singular."""
    upper = torch.linalg.qr(symmetric_root(covariance)).R  # S^T S = R^T Q^T Q R = R^T R
    return upper.mT * upper.diagonal(dim1=1, dim2=2).sign()[:, None]


def _equal_rank(style: Tensor, content: Tensor) -> Tensor:
    """Match the histogram of a single channel ``(H', W')`` to another's ``(H, W)``."""
    ours, theirs = (channel.detach().cpu().double().numpy() for channel in (style, content))
    _, places, counts = np.unique(ours, return_inverse=True, return_counts=True)
    values, wanted = np.unique(theirs, return_counts=True)
    ranks, ranks_wanted = np.cumsum(counts) / style.numel(), np.cumsum(wanted) / content.numel()
    return torch.from_numpy(np.interp(ranks, ranks_wanted, values)[places.reshape(style.shape)])


def _as(pixels: Tensor, like: Tensor) -> Tensor:
    """Return pixels in the shape and precision of an image, and where it is."""
    return pixels.reshape(like.shape).to(like)

"""What is optimised: the pixels themselves, or coefficients that a picture is made of.

Each is linear and complete: the picture of the coefficients of a picture is that picture. Descent in other coefficients
follows another path to the same minimum: a step on a coarse one moves many pixels at once.
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nst.images.bands import Size, finest_band, halved, resized
from nst.losses.settings import check_count

# RGB from three uncorrelated channels, as the colours of ImageNet's photographs are correlated (Olah, Mordvintsev &
# Schubert 2017, "Feature Visualization"; the numbers of their Lucid, where the largest column has a norm of 1).
COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class Parameterization(Protocol):
    """What every parameterization offers; both ways are linear."""

    def coefficients(self, picture: Tensor) -> list[Tensor]:
        """Return real coefficients that ``picture`` makes the picture ``(B, 3, H, W)`` of, exactly but for rounding."""

    def picture(self, coefficients: Sequence[Tensor], size: Size) -> Tensor:
        """Return the picture ``(B, 3, H, W)`` of coefficients, differentiably."""


class Pixels:
    """The pixels themselves."""

    def coefficients(self, picture: Tensor) -> list[Tensor]:
        """Return the picture ``(B, 3, H, W)``."""
        return [picture]

    def picture(self, coefficients: Sequence[Tensor], size: Size) -> Tensor:
        """Return the picture ``(B, 3, H, W)``."""
        return coefficients[0]


class Laplacian:
    """The bands of a Laplacian pyramid (Burt & Adelson 1983), as STROTSS and NNST optimise them (Kolkin 2019, 2022).

    A band is what is lost when the picture is halved, bilinearly, and enlarged again; the last is what is left.

    Args:
        levels: bands beside the last; fewer where the picture is too small to be halved so often.
    """

    def __init__(self, levels: int = 5) -> None:
        self.levels = check_count("levels", levels)

    def coefficients(self, picture: Tensor) -> list[Tensor]:
        """Return the bands ``(B, 3, h, w)``, the finest first."""
        bands = []
        for _ in range(self.levels):
            if max(picture.shape[2:]) == 1:
                break
            bands.append(finest_band(picture))
            picture = halved(picture)
        return [*bands, picture]

    def picture(self, coefficients: Sequence[Tensor], size: Size) -> Tensor:
        """Return the picture ``(B, 3, H, W)``: each band is added to what the coarser ones make."""
        picture = coefficients[-1]
        for band in reversed(coefficients[:-1]):
            picture = band + resized(picture, (band.shape[2], band.shape[3]))
        return picture


class Fourier:
    """Fourier coefficients of uncorrelated colours, scaled by 1 / frequency (Olah, Mordvintsev & Schubert 2017).

    So do the spectra and colours of photographs fall: steps of one size on all coefficients have the colours and the
    smoothness of a photograph. The scale's mean square is 1, so that a learning rate moves a pixel about as far as in
    ``Pixels``. Their sigmoid, which keeps pixels in bounds, is left out, since it has no inverse at black and white.
    """

    def coefficients(self, picture: Tensor) -> list[Tensor]:
        """Return real and imaginary parts, ``(B, 3, H, W // 2 + 1, 2)``, of the uncorrelated channels."""
        colors = _colors(picture.dtype, picture.device).inverse()
        spectrum = torch.fft.rfft2(torch.einsum("ij,bjhw->bihw", colors, picture), norm="ortho")
        return [torch.view_as_real(spectrum / _falloff((picture.shape[2], picture.shape[3]), picture))]

    def picture(self, coefficients: Sequence[Tensor], size: Size) -> Tensor:
        """Return the picture ``(B, 3, H, W)``."""
        spectrum = torch.view_as_complex(coefficients[0]) * _falloff(size, coefficients[0])
        channels = torch.fft.irfft2(spectrum, s=size, norm="ortho")
        return torch.einsum("ij,bjhw->bihw", _colors(channels.dtype, channels.device), channels)


@functools.lru_cache(maxsize=8)
def _colors(dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.tensor(COLORS, dtype=torch.float64)
    return (matrix / torch.linalg.vector_norm(matrix, dim=0).max()).to(device, dtype)


def _falloff(size: Size, like: Tensor) -> Tensor:
    return _falloff_on(size, like.dtype, like.device)


@functools.lru_cache(maxsize=16)
def _falloff_on(size: Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 1 / frequency ``(H, W // 2 + 1)``, but no more than one wave in the picture has, at a mean square of 1."""
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in size)
    frequencies = torch.hypot(rows[:, None], columns[None]).clamp(min=1 / max(size))
    scale = 1 / frequencies
    return (scale / scale.square().mean().sqrt())[:, : size[1] // 2 + 1].to(device, dtype)

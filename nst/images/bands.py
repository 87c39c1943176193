"""Bands of an image: what of it is lost at half its size, as in a Laplacian pyramid (Burt & Adelson 1983)."""

import functools

import torch
from torch import Tensor
from torch.nn import functional as nnf

Size = tuple[int, int]  # height and width


def resized(maps: Tensor, size: Size, corners: bool = False) -> Tensor:
    """Resize ``(B, C, H, W)`` bilinearly, without antialiasing, to a height and width.

    With ``corners`` the first and last positions stay where they are, else the outer edges of pixels do. It is done by
    two products with small matrices, whose gradient has the same bits each time on a GPU.
    """
    down, across = (
        _interpolation(*pair, corners, maps.dtype, maps.device) for pair in zip(maps.shape[2:], size, strict=True)
    )
    return down @ maps @ across.mT


def halved(picture: Tensor) -> Tensor:
    """Return ``(B, C, H, W)`` at half its height and width, rounded down, but at least 1."""
    return resized(picture, (max(picture.shape[2] // 2, 1), max(picture.shape[3] // 2, 1)))


def finest_band(picture: Tensor) -> Tensor:
    """Return what is lost when ``(B, C, H, W)`` is halved and enlarged again: its smallest details."""
    return picture - resized(halved(picture), (picture.shape[2], picture.shape[3]))


@functools.lru_cache(maxsize=64)
def _interpolation(before: int, after: int, corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix ``(after, before)`` that interpolates linearly along one axis."""
    units = torch.eye(before, dtype=dtype)[None]
    return nnf.interpolate(units, after, mode="linear", align_corners=corners)[0].mT.contiguous().to(device)

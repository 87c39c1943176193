"""Image files to RGB tensors in [0, 1] and back: sizes, masks, sample names."""

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nst.errors import UserError, nearest
from nst.files import existing_file, write_atomic
from nst.images import decoding
from nst.samples import FOLDER, samples

log = logging.getLogger(__name__)
FITS = ("long", "short", "height", "square")
STYLE_FITS = (*FITS, "content")
RESAMPLINGS = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "lanczos")}
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
LARGEST_SIDE = 8192


def locate(name: str) -> Path:
    """Return the file that a path or a bundled sample's name stands for; raise UserError if it is neither."""
    if (path := existing_file(name)) is not None:
        return path
    known = samples()
    if name in known:
        return FOLDER / known[name]["file"]
    if "://" in name:
        raise UserError(f"{name} is an address; pictures are read from files. Download it first, and give its path.")
    with contextlib.suppress(OSError, ValueError):
        if Path(name).is_dir():
            raise UserError(f"'{name}' is a folder; an image file or the name of a sample is needed here.")
    raise UserError(
        f"There is no image file '{name}' (looked in {Path.cwd()}), nor a sample of that name."
        f"{nearest(name, known)} Samples: {', '.join(known)}."
    )


def load(
    name: str,
    size: int,
    fit: str = "long",
    resample: str = "lanczos",
    background: str = "white",
    shape: tuple[int, int] | None = None,
) -> Tensor:
    """Load an image, upright and in sRGB, at the size that the network shall see.

    Args:
        name: a path, or the name of a bundled sample.
        size: pixels of the side that ``fit`` names.
        fit: ``long``, ``short`` or ``height`` keep the aspect ratio and set that side; ``square`` squeezes to
            ``size x size``.
        resample: ``bilinear``, ``bicubic`` or ``lanczos``, each antialiased.
        background: what shows through transparent pixels, as a colour name or ``#rrggbb``.
        shape: (width, height) to stretch it to, whatever ``size`` and ``fit`` say.

    Returns:
        ``(1, 3, H, W)`` float32 in [0, 1].

    Raises:
        UserError: the file is missing or broken, or the size it would get is absurd.
        ValueError: ``background`` is no colour.
    """
    image = opened(name, background)
    shape = shape or fitted(image.width, image.height, size, fit, locate(name))
    if shape != image.size:
        image = image.resize(shape, RESAMPLINGS[resample])
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous().float() / 255


def opened(name: str, background: str = "white") -> Image.Image:
    """Open an image, upright, as 8-bit sRGB, at its own size; see ``load``."""
    return decoding.read(locate(name), decoding.parse_color(background))


def load_mask(name: str, shape: tuple[int, int], content: tuple[int, int] | None = None) -> Tensor:
    """Load a greyscale image as a mask ``(1, 1, H, W)`` in float64: white is 1, black (and what is transparent) is 0.

    Args:
        name: a path, or the name of a bundled sample.
        shape: (width, height) to stretch it to.
        content: those of the content image, whose aspect ratio it should have: else there is a warning.

    Raises:
        UserError: the file is missing or broken, or the mask is black everywhere.
    """
    path = locate(name)
    image = decoding.read(path, (0, 0, 0)).convert("L").convert("F")  # so that a small white spot is not rounded away
    width, height = content or image.size
    wide, high = image.width * height, width * image.height
    if abs(wide - high) > 0.02 * max(wide, high):
        log.warning(
            "The mask %s is %d x %d pixels and is stretched to the content's %d x %d", path, *image.size, width, height
        )
    mask = torch.from_numpy(np.array(image.resize(shape, Image.Resampling.BOX))).double()[None, None] / 255
    if not mask.any():
        raise UserError(f"The mask {path} is black everywhere, so that there is nowhere to go. White marks the region.")
    return mask


def fitted(width: int, height: int, size: int, fit: str, path: Path) -> tuple[int, int]:
    """Return the (width, height) that an image gets; raise UserError if a side would vanish, or be too long."""
    if fit == "square":
        return size, size
    side = {"long": max(width, height), "short": min(width, height), "height": height}[fit]
    new = max(round(width * size / side), 0), max(round(height * size / side), 0)
    if min(new) < 1 or max(new) > LARGEST_SIDE:
        raise UserError(
            f"{path} is {width} x {height} pixels and would become {new[0]} x {new[1]} with size={size} fit={fit}: "
            f"each side must have 1 to {LARGEST_SIDE} pixels. Crop the image, or choose another size or fit."
        )
    return new


def unsqueezed(name: str, size: int) -> tuple[int, int]:
    """Return the (width, height) with an image's own aspect ratio and ``size`` as the long side; see ``fitted``."""
    return fitted(*opened(name).size, size, "long", locate(name))


def to_bytes(image: Tensor, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return ``(3, H, W)`` or ``(1, 3, H, W)`` in [0, 1] as ``(H, W, 3)`` uint8: clamped, rounded to nearest.

    With a ``shape`` (width, height) the picture is stretched to it: one that was optimised squeezed.
    """
    pixels = image.detach().reshape(image.shape[-3:]).clamp(0, 1).mul(255).round()
    return stretched(pixels.to("cpu", torch.uint8).permute(1, 2, 0).numpy(), shape)


def stretched(array: np.ndarray, shape: tuple[int, int] | None) -> np.ndarray:
    """Return ``(H, W, 3)`` uint8 stretched to ``shape`` (width, height); as it is if that is its own, or None."""
    if shape is None or shape == (array.shape[1], array.shape[0]):
        return array
    return np.asarray(Image.fromarray(array).resize(shape, Image.Resampling.LANCZOS))


def encode(image: Tensor, kind: str = "png", jpeg_quality: int = 95, shape: tuple[int, int] | None = None) -> bytes:
    """Encode an image, see ``to_bytes``, as a PNG or JPEG file, the same bytes for the same pixels."""
    return encode_bytes(to_bytes(image, shape), kind, jpeg_quality)


def encode_bytes(array: np.ndarray, kind: str = "png", jpeg_quality: int = 95) -> bytes:
    """Encode ``(H, W, 3)`` uint8 as a PNG or JPEG file; see ``encode``."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": jpeg_quality, "subsampling": 0} if kind == "jpeg" else {"compress_level": 6}
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def save(path: Path, data: bytes) -> None:
    """Write an encoded picture atomically."""
    write_atomic(path, lambda file: file.write(data))

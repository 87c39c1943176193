"""Painting with a network: a picture as a whole, or one that memory cannot hold in tiles.

Instance normalisation takes the statistics of the whole picture, so that tiles painted by themselves would differ in
colour and contrast. The statistics are therefore measured first, on the whole picture, and given to every tile; each
tile is painted with a halo as wide as the network's receptive field, which is cut away. So

- where the statistics were measured at full size, the tiles make the very picture that the whole would, but for
  rounding;
- where memory does not suffice for that, they are measured on the picture scaled down: there are no seams, but contrast
  and colour can differ a little from what the whole would be.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst.errors import UserError
from nst.images import rgb
from nst.runtime import memory
from nst.setup import estimate
from nst.transformers.layers import SMALLEST, Statistics, given, measured

SIDES = (4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 128)  # pixels of a tile that tile=auto tries
SHARE = 0.8  # of the free memory that one pass may take
PROBE = 4096  # pixels of a picture whose way through a network is followed; only its shapes are
WINDOWS = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d)
TOLERANCE = 1e-3  # of a colour in [0, 1]: whether tiles are painted as the whole is


@dataclass(frozen=True)
class ReceptiveField:
    """How far a network sees; where a tile begins at a multiple of the stride, its maps lie as the whole's do."""

    radius: int  # pixels beyond a painted pixel that it can depend on, statistics aside, at most
    stride: int  # pixels of the picture that one position of its smallest maps stands for

    @property
    def halo(self) -> int:
        """The radius, as a multiple of the stride, and enough for the smallest picture that a network takes."""
        return math.ceil(max(self.radius, SMALLEST) / self.stride) * self.stride


def receptive_field(network: nn.Module) -> ReceptiveField:
    """Follow the shapes of a picture through a network, and add up how far its convolutions and poolings see.

    A filter of k positions, d apart, sees d (k - 1) / 2 positions to each side, each as many pixels wide as the picture
    has for one of the map. Doubling the size of maps moves what is seen by less than one position of the smallest
    ones, or by two at most where neighbours are interpolated.
    """
    passed: list[tuple[nn.Module, Sequence[int], Sequence[int]]] = []
    followed = estimate.shapes_only(network)
    for module in followed.modules():
        if isinstance(module, WINDOWS):
            module.register_forward_hook(lambda layer, ins, out: passed.append((layer, ins[0].shape, out.shape)))
    with torch.no_grad():
        followed(torch.empty(1, 3, PROBE, PROBE, device="meta"))
    widest, stride = np.zeros(2), 1
    for layer, before, after in passed:
        pixels = [math.ceil(PROBE / side) for side in (*before[2:], *after[2:])]
        kernel, apart = (np.broadcast_to(getattr(layer, name, 1), 2) for name in ("kernel_size", "dilation"))
        widest += apart * (kernel - 1) * pixels[:2] / (2 if isinstance(layer, nn.Conv2d) else 1)
        stride = max(stride, *pixels)
    return ReceptiveField(math.ceil(widest.max()) + 2 * stride, stride)


@dataclass
class Painting:
    """What a network made of a picture."""

    pixels: np.ndarray  # ``(H, W, 3)`` uint8
    seconds: float  # that the network took, from the picture in memory to the pixels in memory
    tile: int | None = None  # pixels of a tile's side without its halo
    measured_at: tuple[int, int] | None = None  # (height, width) at which the statistics for tiles were taken


@dataclass
class Painter:
    """A network that is ready to paint.

    Args:
        network: on the device, in ``dtype``.
        blend: ``(1, S)`` weights of its styles, likewise; None: its only style.
        device: where it is.
        dtype: in which it computes.
        tile: ``auto``, ``none``, or pixels of a tile's side.
    """

    network: nn.Module
    blend: Tensor | None
    device: torch.device
    dtype: torch.dtype
    tile: str = "auto"
    _needs: dict[tuple[int, int], int | None] = field(default_factory=dict)

    def paint(self, image: Tensor, before_tile: Callable[[], None] = lambda: None) -> Painting:
        """Paint a picture.

        Args:
            image: ``(1, 3, H, W)`` float32 RGB in [0, 1], on the CPU.
            before_tile: is called before each tile.

        Raises:
            UserError: the picture is to be painted in tiles, and the network is none that can be cut so.
        """
        height, width = shape = (image.shape[2], image.shape[3])
        side, began = self.choose(shape), time.perf_counter()
        with torch.inference_mode():
            if side is None:
                return Painting(rgb.to_bytes(self.whole(image).float()), time.perf_counter() - began)
            if not self.is_tileable:
                raise UserError(
                    f"{type(self.network).__name__} cannot paint in tiles: what it paints depends on the size of the "
                    "whole picture, or it normalises in a way of its own. Use tile=none and, if memory is short, a "
                    "smaller size."
                )
            pixels, at = np.empty((height, width, 3), np.uint8), self.measurable(shape)
            for rows, columns, painted in self.tiles(image, side, self.measure(image, at), before_tile):
                pixels[rows, columns] = rgb.to_bytes(painted.float())
        return Painting(pixels, time.perf_counter() - began, side, at)

    def whole(self, image: Tensor) -> Tensor:
        """Paint ``(1, 3, H, W)`` in one pass; the painting is on the device, not clamped."""
        laid_out = image.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        painted: Tensor = self.network(laid_out, self.blend)
        return painted

    def measure(self, image: Tensor, at: tuple[int, int]) -> list[Statistics]:
        """Return the statistics that the normalisations meet in a picture, scaled to (height, width)."""
        if at != tuple(image.shape[2:]):
            image = nnf.interpolate(image, at, mode="bilinear", antialias=True)
        with measured(self.network) as found:
            self.whole(image)
        return found

    def tiles(
        self, image: Tensor, side: int, statistics: list[Statistics], before_tile: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Paint a picture tile by tile: yield rows, columns, and what is painted there, on the device, not clamped."""
        step = max(side // self.receptive_field.stride, 1) * self.receptive_field.stride
        down, across = (_spans(full, step, self.receptive_field.halo) for full in image.shape[2:])
        with given(self.network, statistics):
            for (top, bottom), rows in down:
                for (left, right), columns in across:
                    before_tile()
                    painted = self.whole(image[:, :, top:bottom, left:right])
                    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
                    yield rows, columns, painted[:, :, inner[0], inner[1]]

    @cached_property
    def receptive_field(self) -> ReceptiveField:
        """How far the network sees."""
        return receptive_field(self.network)

    def choose(self, shape: tuple[int, int]) -> int | None:
        """Return the side of the tiles to paint a picture (height, width) in; None: it is painted as a whole."""
        if self.tile == "none":
            return None
        if self.tile != "auto":
            return int(self.tile) if max(shape) > int(self.tile) else None
        if self._fits(shape):
            return None
        sides, halo = [side for side in SIDES if side < max(shape)], self.receptive_field.halo
        for side in sides:
            if self._fits((min(side + 2 * halo, shape[0]), min(side + 2 * halo, shape[1]))):
                return side
        return sides[-1] if sides else None

    def measurable(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the largest (height, width), in the proportions of a picture, at which one pass fits in memory."""
        factor, fitting = 1.0, shape
        while not self._fits(fitting) and min(fitting) > SMALLEST:
            factor *= 0.9
            fitting = max(round(shape[0] * factor), SMALLEST), max(round(shape[1] * factor), SMALLEST)
        return fitting

    def _fits(self, shape: tuple[int, int]) -> bool:
        """Tell whether one pass over a picture (height, width) fits in the memory that is free; yes, if unknown."""
        if shape not in self._needs:
            blend = [] if self.blend is None else [self.blend]
            self._needs[shape] = estimate.forward_bytes(self.network, shape, self.dtype, self.device, *blend)
        need, free = self._needs[shape], memory.free_bytes(self.device)
        return need is None or free is None or need <= SHARE * free

    @cached_property
    def is_tileable(self) -> bool:
        """Whether a small picture of noise is painted in tiles as it is painted whole.

        It is not where a network normalises in its own way, or scales its maps by what fits the whole picture.
        """
        halo, stride = self.receptive_field.halo, self.receptive_field.stride
        side = 2 * halo + 5 * stride + 3  # neither the picture nor its half is a multiple of anything
        image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        whole = self.whole(image)
        tiles = self.tiles(image, halo + stride, self.measure(image, (side, side)))
        furthest = max(float((painted - whole[:, :, rows, columns]).abs().max()) for rows, columns, painted in tiles)
        coarse = 100 if self.dtype == torch.bfloat16 else 1
        return furthest <= TOLERANCE * coarse * max(float(whole.abs().max()), 1)


def _spans(full: int, step: int, halo: int) -> list[tuple[tuple[int, int], slice]]:
    """Return, along one axis, what each tile is given (begin, end) and what of it is its own."""
    return [
        ((max(begin - halo, 0), min(begin + step + halo, full)), slice(begin, min(begin + step, full)))
        for begin in range(0, full, step)
    ]

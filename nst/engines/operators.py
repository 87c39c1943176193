"""The operators of the fused engine, forward and backward, on maps in channels-last memory.

Private operators of torch are used only where a small trial shows that they give what the public ones give.
"""

import functools
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

from nst.images.pixels import extended
from nst.losses import functional

log = logging.getLogger(__name__)
# Where it is used here each place is written once, which is as deterministic as can be.
warnings.filterwarnings("ignore", message="max_unpooling2d_forward_out does not have a deterministic")
CHUNK = 1024  # positions summed in bfloat16's product before float32 takes over
LEAST_CHUNKS = 16
MOST_PACKED = 2  # sizes of maps that a weight is kept packed for


class Pooling(NamedTuple):
    """The windows of a pooling, the same along both axes."""

    size: int
    stride: int
    padding: int = 0
    ceil: bool = False


@dataclass(eq=False)
class Kernel:
    """What one pass of a convolution multiplies with: ``(C', C, k, k)``, and ``(C',)`` or None.

    On a CPU the weight is kept in the order in which its library multiplies it, which is best for maps of one size;
    that for another size costs more than none. It is packed whenever it is used, so that the bits of a result do not
    depend on what was computed before.
    """

    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int
    rectified: bool

    def __post_init__(self) -> None:
        self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.packed: dict[torch.Size, Tensor] = {}
        self.about: dict[str, Any] = {"stride": [self.stride] * 2, "padding": [self.padding] * 2, "dilation": [1, 1]}

    def __call__(self, maps: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', h, w)``."""
        if maps.is_cpu and _packing_works(maps.dtype):
            return self.packed_convolution(maps)
        if self.rectified and self.bias is not None and maps.is_cuda and _cudnn_relu_works(maps.device, maps.dtype):
            return self.cudnn_convolution(maps)
        result = nnf.conv2d(maps, self.weight, self.bias, self.stride, self.padding)
        return result.relu_() if self.rectified else result

    def packed_convolution(self, maps: Tensor) -> Tensor:
        """Do the same by oneDNN, whose packed weights and fused ReLU are private to torch's compiler."""
        if maps.shape not in self.packed:
            if len(self.packed) == MOST_PACKED:
                self.packed.pop(next(iter(self.packed)))
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self.packed[maps.shape] = pack(self.weight, **self.about, groups=1, input_size=list(maps.shape))
        convolve, attr = torch.ops.mkldnn._convolution_pointwise, "relu" if self.rectified else "none"
        packed = self.packed[maps.shape]
        return convolve(maps, packed, self.bias, **self.about, groups=1, attr=attr, scalars=[], algorithm="")

    def cudnn_convolution(self, maps: Tensor) -> Tensor:
        """Do the same, rectified, by cuDNN's fused ReLU, which torch does not document."""
        return torch.cudnn_convolution_relu(maps, self.weight, self.bias, groups=1, **self.about)


class Convolution:
    """A convolution, rectified or not, and its gradient with respect to its input.

    The gradient of a convolution with stride 1 is again a convolution, with the kernel flipped and its channels
    transposed. All four sides are padded, by less than k, with a border of ``zeros``, ``replicate`` or ``reflect``.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: int, padding: int, rectified: bool, border: str = "zeros"
    ) -> None:
        self.rectified, self.border = rectified, border
        padding, self.frame = (padding, 0) if border == "zeros" else (0, padding)
        self.kernel = Kernel(weight, bias, stride, padding, rectified)
        self.flipped = Kernel(weight.flip(2, 3).transpose(0, 1), None, 1, weight.shape[2] - 1 - padding, False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', h, w)``."""
        if self.frame:
            maps = extended(maps, self.frame, self.border).contiguous(memory_format=torch.channels_last)
        return self.kernel(maps)

    def backward(self, gradient: Tensor, height: int, width: int) -> Tensor:
        """Map the gradient ``(B, C', h, w)``, before the ReLU, to that of the input ``(B, C, height, width)``."""
        weight, stride, padding = self.kernel.weight, self.kernel.stride, self.kernel.padding
        if stride == 1:
            result = self.flipped(gradient)
        else:
            rest = [
                full + 2 * self.frame - (stride * (part - 1) + weight.shape[2] - 2 * padding)
                for full, part in zip((height, width), gradient.shape[2:], strict=True)
            ]
            result = nnf.conv_transpose2d(gradient, weight, None, stride, padding, output_padding=rest)
        return extended_backward(result, self.frame, self.border) if self.frame else result


def extended_backward(gradient: Tensor, width: int, mode: str) -> Tensor:
    """Send the gradient ``(B, C, H + 2 width, W + 2 width)`` of ``extended`` maps to where they came from, in place."""
    for axis in (2, 3):
        size = gradient.shape[axis] - 2 * width
        before, inner, after = gradient.split([width, size, width], axis)
        if mode == "reflect":
            inner.narrow(axis, 1, width).add_(before.flip(axis))
            inner.narrow(axis, size - 1 - width, width).add_(after.flip(axis))
        else:
            inner.narrow(axis, 0, 1).add_(before.sum(axis, keepdim=True))
            inner.narrow(axis, size - 1, 1).add_(after.sum(axis, keepdim=True))
        gradient = inner
    return gradient.contiguous(memory_format=torch.channels_last)


def rectify_backward(gradient: Tensor, rectified: Tensor) -> Tensor:
    """Set a gradient to zero, in place, where the rectified map is not positive."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, rectified, 0, grad_input=gradient)


def max_pool_backward(gradient: Tensor, maps: Tensor, places: Tensor, pooling: Pooling) -> Tensor:
    """Send the gradient ``(B, C, h, w)`` to the place of each window's maximum in ``maps`` ``(B, C, H, W)``."""
    size, stride, padding, ceil = pooling
    if gradient.device.type == "cpu" and size == stride and not padding:  # each place is in one window at most
        return nnf.max_unpool2d(gradient, places, [size] * 2, [stride] * 2, output_size=maps.shape[2:])
    window = [size] * 2, [stride] * 2, [padding] * 2, [1, 1]
    return torch.ops.aten.max_pool2d_with_indices_backward(gradient, maps, *window, ceil, places)


def average_pool_backward(gradient: Tensor, height: int, width: int, size: int, scale: float) -> Tensor:
    """Spread the gradient ``(B, C, h, w)`` of an average pooling without padding over ``(B, C, height, width)``.

    Windows of 2 or 3 positions, 2 apart, whose averages were multiplied by ``scale``. One that reaches over the edge
    (``ceil_mode``) averages over what there is of it.
    """
    each = gradient * (scale / size**2)
    for axis, full in ((2, height), (3, width)):
        there = full - 2 * (gradient.shape[axis] - 1)
        if there < size:  # the last window has fewer members
            each.narrow(axis, gradient.shape[axis] - 1, 1).mul_(size / there)
    for axis, full in ((3, width), (2, height)):
        each = _spread(each, axis, full, size)
    return each


def _spread(gradient: Tensor, axis: int, full: int, size: int) -> Tensor:
    """Add each window's gradient to its 2 or 3 members along one axis of length ``full``."""
    windows = gradient.shape[axis]
    shape = [full if i == axis else n for i, n in enumerate(gradient.shape)]
    result = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
    for phase in (0, 1):  # even members are first of a window and, where it has 3, last of the one before
        members = len(range(phase, full, 2))
        part = result.as_strided(
            [members if i == axis else n for i, n in enumerate(shape)],
            [s * 2 if i == axis else s for i, s in enumerate(result.stride())],
            phase * result.stride(axis),
        )
        shared = min(windows, members)
        part.narrow(axis, 0, shared).copy_(gradient.narrow(axis, 0, shared))
        if members > shared:
            part.narrow(axis, shared, members - shared).zero_()
        if phase == 0 and size == 3:
            also = min(windows, members - 1)
            part.narrow(axis, 1, also).add_(gradient.narrow(axis, 0, also))
    return result


def channel_products(maps: Tensor) -> Tensor:
    """Return ``functional.channel_products`` of maps, ``(B, C, C)`` in float32, or float64 for float64.

    In bfloat16 the sum is taken in chunks, and these are added in float32.
    """
    rows = rows_of(maps)
    if maps.dtype != torch.bfloat16:
        return torch.bmm(rows.transpose(1, 2), rows)
    batch, positions, channels = rows.shape
    chunks = max(positions // CHUNK, min(LEAST_CHUNKS, positions))
    length = positions // chunks
    whole = rows[:, : chunks * length].reshape(batch * chunks, length, channels)
    sums = torch.bmm(whole.transpose(1, 2), whole).view(batch, chunks, channels, channels)
    total = sums.sum(1, dtype=torch.float32)
    if rest := positions - chunks * length:
        tail = rows[:, positions - rest :]
        total += torch.bmm(tail.transpose(1, 2), tail)
    return total


def add_channel_products_backward(accumulated: Tensor | None, gradient: Tensor, maps: Tensor) -> Tensor:
    """Add the gradient ``(B, C, C)`` of ``channel_products``, with respect to the maps, in place if given one."""
    weight = (gradient + gradient.transpose(1, 2)).to(maps.dtype)
    rows = rows_of(maps)
    if accumulated is None:
        return maps_of(torch.bmm(rows, weight), maps.shape[2], maps.shape[3])
    rows_of(accumulated).baddbmm_(rows, weight)
    return accumulated


def squared_differences(maps: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of squares of maps - target ``(B,)`` in float32 or more, and the difference itself."""
    difference = maps - target
    dtype = torch.promote_types(maps.dtype, torch.float32)
    return functional.sum_of_squares(difference, dtype), difference


def add_squared_differences_backward(accumulated: Tensor | None, gradient: Tensor, difference: Tensor) -> Tensor:
    """Add 2 * gradient * difference to ``(B, C, H, W)``, in place if given; gradient is ``(B,)``.

    Beside bfloat16 the factor is split in two, since one such number holds too few of its digits.
    """
    factor = 2 * gradient
    result = torch.zeros_like(difference) if accumulated is None else accumulated
    high = factor.to(difference.dtype)
    low = (factor - high.to(factor.dtype)).to(difference.dtype)
    for part in (high, low) if difference.dtype == torch.bfloat16 else (high,):
        result.addcmul_(difference, part.view(-1, 1, 1, 1))
    return result


def rows_of(maps: Tensor) -> Tensor:
    """Return ``(B, C, H, W)`` in channels-last memory as rows ``(B, H W, C)``, without a copy."""
    batch, channels, height, width = maps.shape
    return maps.permute(0, 2, 3, 1).view(batch, height * width, channels)


def maps_of(rows: Tensor, height: int, width: int) -> Tensor:
    """Return rows ``(B, H W, C)`` as ``(B, C, H, W)`` in channels-last memory, without a copy."""
    return rows.view(rows.shape[0], height, width, rows.shape[2]).permute(0, 3, 1, 2)


def _gives_the_same(trial: Callable[[Kernel, Tensor], Tensor], device: torch.device | str, dtype: torch.dtype) -> bool:
    """Tell whether a private operator gives what the public one does, for a small rectified convolution."""
    generator = torch.Generator().manual_seed(0)
    maps, weight, bias = (
        torch.randn(shape, generator=generator).to(device, dtype) for shape in ((1, 16, 9, 7), (8, 16, 3, 3), (8,))
    )
    maps, kernel = maps.contiguous(memory_format=torch.channels_last), Kernel(weight, bias, 1, 1, True)
    expected = nnf.conv2d(maps, kernel.weight, bias, padding=1).relu_()
    try:
        return torch.allclose(trial(kernel, maps).float(), expected.float(), rtol=2e-2, atol=1e-1)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError) as error:
        log.debug("No fused convolutions in %s: %s", dtype, error)
        return False


@functools.lru_cache
def _packing_works(dtype: torch.dtype) -> bool:
    if dtype == torch.float64 or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return _gives_the_same(Kernel.packed_convolution, "cpu", dtype)


@functools.lru_cache
def _cudnn_relu_works(device: torch.device, dtype: torch.dtype) -> bool:
    return _gives_the_same(Kernel.cudnn_convolution, device, dtype)

"""The whole step as a CUDA graph: forward and backward recorded once, then replayed without the cost of launching.

A recorded graph always does the same to the same memory, so that all which changes from step to step goes in as a
tensor: the pixels, the content targets of the shift, and the shift itself as the rows and columns to pick.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

log = logging.getLogger(__name__)
Losses = tuple[Tensor, ...]
TOLERANCE = 1e-3


def roll_indices(
    shifts: Sequence[tuple[int, int]], height: int, width: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Return shifts as indices: rows ``(B, H)``, columns ``(B, W)``, and the same for the way back."""
    down, across = torch.tensor(shifts).unbind(1)
    rows, columns = torch.arange(height), torch.arange(width)
    found = [
        (positions + sign * shift[:, None]) % len(positions)
        for sign in (-1, 1)
        for positions, shift in ((rows, down), (columns, across))
    ]
    return tuple(index.to(device, non_blocking=True) for index in found)


def roll(image: Tensor, indices: Sequence[Tensor]) -> Tensor:
    """Roll each image ``(B, 3, H, W)`` by its shift, given as ``roll_indices``: ``torch.roll``, value for value."""
    return _Roll.apply(image, *indices)


class _Roll(torch.autograd.Function):
    """Picks rows and columns; the way back picks by the inverse, which is always in the same order."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, rows: Tensor, columns: Tensor, rows_back: Tensor, columns_back: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rows_back, columns_back)
        return _pick(image, rows, columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _pick(gradient, *ctx.saved_tensors), None, None, None, None


def _pick(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    picked = image.gather(2, rows[:, None, :, None].expand(image.shape))
    return picked.gather(3, columns[:, None, None, :].expand(image.shape))


def record(function: Callable[..., Losses], sample: tuple[Tensor, ...]) -> Callable[..., Losses] | None:
    """Record a function and its gradient as CUDA graphs.

    The function is of tensors of fixed shapes and returns tensors, of which only the first has a gradient, with respect
    to the first argument. The memory of the sample, arguments of these shapes, becomes the graph's own. The replayed
    function's results are overwritten by the next call; it is None, with a line in the log, if it cannot be recorded or
    does not give the same.
    """
    changed = _changed(sample)
    expected = _with_gradient(function, changed)
    try:
        recorded = cast(Callable[..., Losses], torch.cuda.make_graphed_callables(function, sample))
        found = _with_gradient(recorded, changed)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        log.info("The step is not recorded as a CUDA graph: %s", (str(error) or type(error).__name__).splitlines()[0])
        return None
    if not all(torch.allclose(a, b, rtol=TOLERANCE, equal_nan=True) for a, b in zip(found, expected, strict=True)):
        log.warning("The step recorded as a CUDA graph does not give the same losses or gradient; it is not used")
        return None
    return recorded


def _changed(sample: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return other arguments of the same shapes, which a graph that has frozen anything answers as it did the first."""
    copies = (argument.detach().clone() for argument in sample)
    first, *others = (one.flip(-1) * 0.9 if one.is_floating_point() else one for one in copies)
    return first.requires_grad_(), *others


def _with_gradient(function: Callable[..., Losses], arguments: tuple[Tensor, ...]) -> list[Tensor]:
    """Return what a function gives, and the gradient of the first with respect to the first argument."""
    with torch.enable_grad():
        given = function(*arguments)
        (gradient,) = torch.autograd.grad(given[0].sum(), arguments[0])
    return [*(one.detach().clone() for one in given), gradient]

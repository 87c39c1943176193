"""The formulas, as pure functions of feature maps; each returns one value per image of the batch.

F is the feature map of the image being optimised, P the content image's, S the style image's. All are
``(B, C, H, W)``; a target's batch size may be 1, for one target shared by the whole batch. N = H * W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum")
GRAM_NORMS = ("none", "N", "CN")
TERM_NORMS = ("none", "CN", "4C2", "4C2N2", "relative")
TV_KINDS = ("squared", "absolute")


def gram_matrix(features: Tensor, norm: str = "N") -> Tensor:
    """Gram matrix of a feature map, the channel correlations G = F F^T / n (Gatys 2016, eq. 3).

    Args:
        features: ``(B, C, H, W)``; float16 and bfloat16 are summed in float32.
        norm: what n is: ``none`` 1, ``N`` the positions H * W, ``CN`` channels times positions.

    Returns:
        ``(B, C, C)``, symmetric.
    """
    return channel_products(features) / gram_divisor(norm, features.shape[1:])


def channel_products(features: Tensor, target: object = None) -> Tensor:
    """Sum over the positions of the products of every two channels, F F^T: a Gram matrix before its division.

    Args:
        features: ``(B, C, H, W)``; float16 and bfloat16 are summed in float32.
        target: not used.

    Returns:
        ``(B, C, C)``, symmetric.
    """
    rows = at_least_float32(features).flatten(2)
    return torch.bmm(rows, rows.transpose(1, 2))


def gram_divisor(norm: str, shape: Sequence[int]) -> int:
    """Return what a Gram matrix is divided by, given ``(C, H, W)``; see ``gram_matrix``."""
    channels, height, width = shape
    return {"none": 1, "N": height * width, "CN": channels * height * width}[norm]


def squared_differences(features: Tensor, target: Tensor) -> Tensor:
    """Sum over channels and positions of (F - P)^2: a content loss before its divisions.

    Args:
        features: F, ``(B, C, H, W)``.
        target: P, ``(B or 1, C, H, W)``.

    Returns:
        ``(B,)``.
    """
    return squared_error(features, target, "sum")


def squared_error(value: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Sum or mean over all elements of (value - target)^2, one for each image of the batch.

    Args:
        value: ``(B, ...)``.
        target: ``(B, ...)`` or ``(1, ...)``.
        reduction: ``mean`` or ``sum``.

    Returns:
        ``(B,)``.
    """
    difference = (at_least_float32(value) - at_least_float32(target)).flatten(1)
    total: Tensor = _SumOfSquares.apply(difference)
    return total / difference.shape[1] if reduction == "mean" else total


def content_loss(features: Tensor, target: Tensor, norm: str | float = "relative", reduction: str = "mean") -> Tensor:
    """Squared difference of feature maps, sum or mean of (F - P)^2, divided by a norm (Gatys 2016, eq. 1).

    Args:
        features: F, ``(B, C, H, W)``.
        target: P, ``(B or 1, C, H, W)``.
        norm: ``relative`` divides by the sum (or mean) of P^2, so that 1 means "as far away as an all-zero map";
            ``none`` does not divide; a number is the divisor (2 for the paper's one half).
        reduction: ``mean`` or ``sum``.

    Returns:
        ``(B,)``.
    """
    return content_value(squared_differences(features, target), target, norm, reduction)


def content_value(sums: Tensor, target: Tensor, norm: str | float, reduction: str) -> Tensor:
    """Finish ``content_loss`` from its ``squared_differences`` ``(B,)``."""
    elements = target[0].numel() if reduction == "mean" else 1
    return sums / elements / _divisor(norm, target, target.shape[1:], reduction)


def gram_loss(
    features: Tensor,
    target_gram: Tensor,
    gram_norm: str = "N",
    term_norm: str | float = "relative",
    reduction: str = "mean",
) -> Tensor:
    """Squared difference of Gram matrices, sum or mean of (G - A)^2, divided by a norm (Gatys 2016, eq. 4).

    Args:
        features: F, ``(B, C, H, W)``; its size need not be the style image's.
        target_gram: A, ``(B or 1, C, C)``, made with the same ``gram_norm``.
        gram_norm: see ``gram_matrix``.
        term_norm: ``relative`` divides by the sum (or mean) of A^2; ``CN``, ``4C2`` and ``4C2N2`` by C N, 4 C^2 and
            4 C^2 N^2, with F's C and N; ``none`` does not divide; a number is the divisor.
        reduction: ``mean`` or ``sum``, over the C x C elements.

    Returns:
        ``(B,)``.
    """
    return gram_value(channel_products(features), target_gram, features.shape[1:], gram_norm, term_norm, reduction)


def gram_value(
    sums: Tensor, target_gram: Tensor, shape: Sequence[int], gram_norm: str, term_norm: str | float, reduction: str
) -> Tensor:
    """Finish ``gram_loss`` from its ``channel_products`` ``(B, C, C)`` and the map's ``(C, H, W)``."""
    gram = sums / gram_divisor(gram_norm, shape)
    return squared_error(gram, target_gram, reduction) / _divisor(term_norm, target_gram, shape, reduction)


def total_variation(image: Tensor, kind: str = "squared", reduction: str = "mean") -> Tensor:
    """Total variation: differences of neighbouring pixels, down and across.

    Args:
        image: ``(B, C, H, W)``.
        kind: ``squared`` takes d^2 of each difference (Johnson 2016 and most code), ``absolute`` takes |d| (the
            anisotropic variation of Rudin, Osher & Fatemi 1992).
        reduction: ``sum`` adds all up; ``mean`` adds the mean over vertical and the mean over horizontal differences.

    Returns:
        ``(B,)``; a direction with a single pixel contributes 0.
    """
    total = at_least_float32(image.new_zeros(image.shape[0]))
    for axis in (2, 3):
        difference = image.diff(dim=axis).flatten(1)
        if difference.shape[1] == 0:
            continue
        difference = at_least_float32(difference)
        size = difference.abs() if kind == "absolute" else difference.square()
        total = total + (size.sum(1) if reduction == "sum" else size.mean(1))
    return total


def size_divisor(norm: str | float, target: Tensor) -> Tensor | float:
    """Return what the mean of squared differences from a target is divided by.

    Args:
        norm: ``relative`` gives the mean of the target's squares ``(B,)``, or 1 where that is 0; ``none`` gives 1; a
            number itself.
        target: ``(B, ...)``.
    """
    if norm == "relative":
        size = at_least_float32(target).flatten(1).square().mean(1)
        return torch.where(size > 0, size, torch.ones_like(size))
    return 1.0 if isinstance(norm, str) else norm


class _SumOfSquares(torch.autograd.Function):
    """Sum of squares of each row of ``(B, n)``, whose gradient takes one pass over the data, not three."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.square().sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return rows * (2 * gradient[:, None])


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 if it has fewer digits; float32 and float64 stay what they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _divisor(norm: str | float, target: Tensor, shape: Sequence[int], reduction: str) -> Tensor | float:
    """Return what a term is divided by; relative to an all-zero target means not divided."""
    if norm == "relative":
        size = torch.linalg.vector_norm(target.flatten(1), dim=1, dtype=at_least_float32(target[:0]).dtype).square()
        size = size / target[0].numel() if reduction == "mean" else size
        return torch.where(size > 0, size, torch.ones_like(size))
    channels, positions = shape[0], shape[1] * shape[2]
    named = {"none": 1, "CN": channels * positions, "4C2": 4 * channels**2, "4C2N2": 4 * channels**2 * positions**2}
    return float(named[norm]) if isinstance(norm, str) else norm

"""The formulas, as pure functions of feature maps; a loss is ``(B,)``, one value per image of the batch.

F is the feature map of the image being optimised, P the content image's, S the style image's. All are
``(B, C, H, W)``; a target's batch size may be 1, for one target shared by the whole batch. N = H * W positions.
float16 and bfloat16 are summed in float32. A ``guide`` ``(B or 1, 1, H, W)`` weights the positions: the sum of w F F^T
(Gatys 2017, section 4, where w is T^2).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

REDUCTIONS = ("mean", "sum")
GRAM_NORMS = ("none", "N", "CN")
TERM_NORMS = ("none", "CN", "4C2", "4C2N2", "keras", "relative")
TV_KINDS = ("squared", "absolute", "diagonal", "keras", "laplacian")


def sum_of_squares(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum of squares of each image ``(B,)``, to the last digits however long it is.

    On a CPU a norm, a dot product and their like add one number after the other, which costs float32 three digits of
    seven over the map of a large picture; ``sum`` adds in pairs.
    """
    return values.to(dtype).square().flatten(1).sum(1)


def gram_matrix(features: Tensor, norm: str = "N") -> Tensor:
    """Gram matrix ``(B, C, C)`` of a feature map, the channel correlations G = F F^T / n (Gatys 2016, eq. 3).

    The norm says what n is: ``none`` 1, ``N`` the positions H * W, ``CN`` channels times positions. ``GramLoss`` takes
    ``channel_products`` and divides itself, since these can be added up over the tiles of a picture.
    """
    return channel_products(features) / gram_divisor(norm, features.shape[1:])


def channel_products(
    features: Tensor, target: object = None, shift: float = 0.0, guide: Tensor | None = None
) -> Tensor:
    """Sum over the positions of the products of every two channels, F F^T ``(B, C, C)``: a Gram matrix, not divided.

    ``shift`` is added to every activation first (Novak & Nikulin 2016, section 3.3); the target is not used.
    """
    rows = _shifted_rows(features, shift)
    if guide is not None:
        rows = rows * guide.to(rows.dtype).flatten(2).sqrt()
    return torch.bmm(rows, rows.transpose(1, 2))


def products_and_sums(features: Tensor, target: object = None, guide: Tensor | None = None) -> Tensor:
    """Return ``channel_products`` and ``channel_sums`` beside them, ``(B, C, C + 1)``: for mean and covariance."""
    return torch.cat([channel_products(features, guide=guide), channel_sums(features, guide=guide)[:, :, None]], dim=2)


def channel_sums(features: Tensor, target: object = None, guide: Tensor | None = None, power: int = 1) -> Tensor:
    """Sum each channel, or its squares (``power`` 2), over the positions: ``(B, C)``; the target is not used."""
    rows = at_least_float32(features).flatten(2)
    rows = rows.square() if power == 2 else rows
    return (rows if guide is None else rows * guide.to(rows.dtype).flatten(2)).sum(2)


def cross_products(first: Tensor, second: Tensor, shift: float = 0.0, guide: Tensor | None = None) -> Tensor:
    """Sum over the positions of the products of a map's channels with another's, ``(B, C, C')`` (Novak & Nikulin 2016).

    The coarser map is brought to the finer one's size by repeating its positions (nearest neighbour); a guide is of the
    finer one.
    """
    size = max(first.shape[2:], second.shape[2:], key=lambda size: size[0] * size[1])
    a, b = (
        _shifted_rows(maps if maps.shape[2:] == size else nnf.interpolate(maps, size, mode="nearest"), shift)
        for maps in (at_least_float32(first), at_least_float32(second))
    )
    if guide is not None:
        a = a * guide.to(a.dtype).flatten(2)
    return torch.bmm(a, b.transpose(1, 2))


def _shifted_rows(features: Tensor, shift: float) -> Tensor:
    rows = at_least_float32(features).flatten(2)
    return rows + shift if shift else rows


def smoothed(features: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the softmax of each image's map, divided by a temperature, over all its C N numbers, times C N.

    Activation smoothing (Wang, Li & Vasconcelos 2021, "Rethinking and Improving the Robustness of Image Style
    Transfer"). The factor, which a relative norm cancels, makes the mean 1, so that images of any size compare.
    """
    rows = at_least_float32(features).flatten(1)
    return ((rows / temperature).softmax(1) * rows.shape[1]).view(features.shape)


def gram_divisor(norm: str, shape: Sequence[float]) -> float:
    """Return what a Gram matrix is divided by, given ``(C, H, W)``; see ``gram_matrix``."""
    channels, height, width = shape
    return {"none": 1, "N": height * width, "CN": channels * height * width}[norm]


def squared_differences(features: Tensor, target: Tensor) -> Tensor:
    """Sum over channels and positions of (F - P)^2, ``(B,)``: a content loss before its divisions."""
    return squared_error(features, target, "sum")


def squared_error(value: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the sum or mean of (value - target)^2, ``(B,)``; value is ``(B, ...)``, target ``(B or 1, ...)``."""
    difference = (at_least_float32(value) - at_least_float32(target)).flatten(1)
    total: Tensor = _SumOfSquares.apply(difference)
    return total / difference.shape[1] if reduction == "mean" else total


def content_loss(features: Tensor, target: Tensor, norm: str | float = "relative", reduction: str = "mean") -> Tensor:
    """Squared difference of feature maps, sum or mean of (F - P)^2, divided by a norm (Gatys 2016, eq. 1).

    The norm ``relative`` divides by the sum (or mean) of P^2, so that 1 means "as far away as an all-zero map";
    ``none`` does not divide; a number is the divisor (2 for the paper's one half).
    """
    return content_value(squared_differences(features, target), target, norm, reduction)


def content_value(sums: Tensor, target: Tensor, norm: str | float, reduction: str, zero: float = 0.0) -> Tensor:
    """Finish ``content_loss`` from its ``squared_differences`` ``(B,)``; ``zero`` is what an all-zero map would be."""
    elements = target[0].numel() if reduction == "mean" else 1
    return sums / elements / divisor(norm, lambda: _size(target - zero, reduction))


def gram_loss(
    features: Tensor,
    target_gram: Tensor,
    gram_norm: str = "N",
    term_norm: str | float = "relative",
    reduction: str = "mean",
    picture: int | None = None,
) -> Tensor:
    """Squared difference of Gram matrices, sum or mean of (G - A)^2, divided by a norm (Gatys 2016, eq. 4).

    Args:
        features: F; its size need not be the style image's.
        target_gram: A, ``(B or 1, C, C)``, made with the same ``gram_norm``, see ``gram_matrix``.
        term_norm: ``relative`` divides by the sum (or mean) of A^2; ``CN``, ``4C2`` and ``4C2N2`` by C N, 4 C^2 and
            4 C^2 N^2, with F's C and N; ``keras`` by 4 * 3^2 * N^2, with the N of the picture, as Keras' example
            does; ``none`` does not divide; a number is the divisor.
        picture: positions of the picture, for ``keras``; without it the map's.
    """
    sums, shape = channel_products(features), features.shape[1:]
    return gram_value(sums, target_gram, shape, gram_norm, term_norm, reduction=reduction, picture=picture)


def gram_value(
    sums: Tensor,
    target_gram: Tensor,
    shape: Sequence[float],
    gram_norm: str,
    term_norm: str | float,
    *,
    reduction: str,
    picture: int | None = None,
    zero: float = 0.0,
) -> Tensor:
    """Finish ``gram_loss`` from its ``channel_products`` ``(B, C, C)`` and the map's ``(C, H, W)``.

    ``zero`` is what the products of an all-zero map would be: the positions, if maps are ``smoothed``.
    """
    channels, positions = shape[0], shape[1] * shape[2]
    named = {
        "CN": channels * positions,
        "4C2": 4 * channels**2,
        "4C2N2": 4 * channels**2 * positions**2,
        "keras": 4 * 3**2 * (picture or positions) ** 2,
    }
    own = gram_divisor(gram_norm, shape)
    error = squared_error(sums / own, target_gram, reduction)
    return error / divisor(term_norm, lambda: _size(target_gram - zero / own, reduction), **named)


def total_variation(image: Tensor, kind: str = "squared", reduction: str = "mean") -> Tensor:
    """Total variation: differences of neighbouring pixels, down and across.

    Args:
        image: ``(B, C, H, W)``.
        kind: ``squared`` takes d^2 of each difference (Johnson 2016 and most code), ``absolute`` takes |d| (the
            anisotropic variation of Rudin, Osher & Fatemi 1992), ``keras`` (d_down^2 + d_across^2)^1.25 of each pixel
            that has a neighbour below and one on its right (Keras' example). ``diagonal`` weights d^2 by 1/3, and
            that of both diagonals by 1/12, of the picture with its edges repeated (crowsonkb/style-transfer-pytorch).
            ``laplacian`` sums d^2 / 16 of the picture with zeros around it, so that its gradient is a Laplacian
            divided by 8 (Li 2017).
        reduction: ``sum`` adds all up; ``mean`` adds the means over each direction. Of ``keras`` it is the mean over
            its pixels, of ``laplacian`` the sum divided by the picture's numbers.

    Returns:
        ``(B,)``; a direction with a single pixel contributes 0.
    """
    if kind in WHOLE_KINDS:
        return WHOLE_KINDS[kind](at_least_float32(image), reduction)
    total = at_least_float32(image.new_zeros(image.shape[0]))
    for axis in (2, 3):
        difference = at_least_float32(image.diff(dim=axis).flatten(1))
        if difference.shape[1]:
            size = difference.abs() if kind == "absolute" else difference.square()
            total = total + (size.sum(1) if reduction == "sum" else size.mean(1))
    return total


def _diagonal_variation(image: Tensor, reduction: str) -> Tensor:
    framed = torch.cat([image[..., :1], image, image[..., -1:]], dim=3)
    framed = torch.cat([framed[..., :1, :], framed, framed[..., -1:, :]], dim=2)
    core, before, after = slice(1, -1), slice(None, -1), slice(1, None)
    pairs = (  # two views of the frame, and the weight of their difference
        (framed[..., core, 2:], framed[..., core, core], 3),
        (framed[..., 2:, core], framed[..., core, core], 3),
        (framed[..., after, after], framed[..., before, before], 12),
        (framed[..., after, before], framed[..., before, after], 12),
    )
    return sum((squared_error(a, b, reduction) / divisor for a, b, divisor in pairs), image.new_zeros(image.shape[0]))


def _keras_variation(image: Tensor, reduction: str) -> Tensor:
    here = image[..., :-1, :-1]
    size = ((image[..., 1:, :-1] - here).square() + (image[..., :-1, 1:] - here).square()).flatten(1).pow(1.25)
    return size.sum(1) if reduction == "sum" else size.sum(1) / max(size.shape[1], 1)


def _laplacian_variation(image: Tensor, reduction: str) -> Tensor:
    framed = nnf.pad(image, (1, 1, 1, 1))
    total = sum((framed.diff(dim=axis).flatten(1).square().sum(1) for axis in (2, 3)), image.new_zeros(image.shape[0]))
    return total / 16 / (image[0].numel() if reduction == "mean" else 1)


# Kinds of variation that are no sum over one direction after the other.
WHOLE_KINDS = {"diagonal": _diagonal_variation, "keras": _keras_variation, "laplacian": _laplacian_variation}


def divisor(norm: str | float, size: Callable[[], Tensor], **named: float) -> Tensor | float:
    """Return what a term is divided by.

    The norm ``relative`` gives ``size()``, ``(B,)`` or ``(1,)``, what the target is worth, or 1 where that is 0 or
    less; ``none`` gives 1; another name gives what is named so; a number itself.
    """
    if norm == "relative":
        worth = size()
        return torch.where(worth > 0, worth, torch.ones_like(worth))
    return float({"none": 1, **named}[norm]) if isinstance(norm, str) else norm


def mean_square(target: Tensor) -> Tensor:
    """Return the mean of squares of each image ``(B,)``."""
    return at_least_float32(target).flatten(1).square().mean(1)


def _size(target: Tensor, reduction: str) -> Tensor:
    """Return the sum or mean of squares of each image, to the last digits."""
    size = sum_of_squares(target, at_least_float32(target[:0]).dtype)
    return size / target[0].numel() if reduction == "mean" else size


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

"""Wasserstein distance of Gaussians: how far apart features are when all but mean and covariance is left out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nst.losses import functional as F
from nst.losses.settings import check_not_negative
from nst.losses.summed import FunctionOfSums


class GaussianWassersteinLoss(FunctionOfSums):
    """Squared 2-Wasserstein distance of Gaussians, mean over channels, as in crowsonkb/style-transfer-pytorch.

    With m the means and S the covariances over the positions, ridge on the diagonal of both, it is
    (|m_F - m_S|^2 + tr(S_F + S_S - 2 (S_S^1/2 S_F S_S^1/2)^1/2)) / C (Olkin & Pukelsheim 1982). Matrices of C x C are
    worked with in float64 where the device has it.

    Args:
        norm: ``relative`` (to what an all-zero map would give), ``none`` or a divisor.
        ridge: added to each variance, so that a layer with fewer positions than channels has a smooth distance.
    """

    norms = ("none", "relative")
    sums = staticmethod(F.products_and_sums)
    waits_for_the_device = True  # eigenvalues

    def __init__(self, norm: str | float = "relative", ridge: float = 1e-4, scale: float = 1.0) -> None:
        super().__init__(norm, scale)
        self.ridge = check_not_negative("ridge", ridge)

    def value(self, sums: Tensor, target: Tensor, shape: Sequence[float]) -> Tensor:
        """Finish from the products of channels beside their sums ``(B, C, C + 1)``; ``shape`` is ``(C, H, W)``."""
        mean, covariance = self._moments(sums, shape)
        root, style_mean = _digits(target[:, :, :-1]), _digits(target[:, :, -1])
        trace = _trace(covariance) + root.square().sum((1, 2))
        distance = F.squared_error(mean, style_mean, "sum") + trace - 2 * _TraceOfRoot.apply(root @ covariance @ root)
        # an all-zero map: its covariance is the ridge alone
        size = style_mean.square().sum(1) + root.square().sum((1, 2))
        size = size + shape[0] * self.ridge - 2 * self.ridge**0.5 * _trace(root)
        size = torch.where(size > 1e-3 * shape[0] * self.ridge, size, 0)  # of an all-zero target it is rounding
        return (distance / shape[0] / F.divisor(self.norm, lambda: size / shape[0])).to(sums.dtype)

    def target_of_sums(self, sums: Tensor, shape: Sequence[float]) -> Tensor:
        """Return the root of the covariance and beside it the mean, ``(B, C, C + 1)``."""
        mean, covariance = self._moments(sums, shape)
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt()[:, None] @ vectors.mT
        return torch.cat([root, mean[:, :, None]], dim=2).to(sums.dtype)

    def _moments(self, sums: Tensor, shape: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the mean ``(B, C)`` and the covariance ``(B, C, C)`` with its ridge."""
        sums = _digits(sums) / (shape[1] * shape[2])
        mean = sums[:, :, -1]
        ridge = self.ridge * torch.eye(sums.shape[1], dtype=sums.dtype, device=sums.device)
        return mean, sums[:, :, :-1] - mean[:, :, None] * mean[:, None, :] + ridge


class _TraceOfRoot(torch.autograd.Function):
    """Trace of the square root of symmetric matrices ``(B, C, C)``, none of their eigenvalues below 0 but by rounding.

    The gradient of a sum of f(eigenvalue) is V f'(eigenvalues) V^T, which equal eigenvalues do not trouble, unlike the
    gradients of the eigenvectors (Lewis 1996).
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        try:
            values, vectors = torch.linalg.eigh((matrices + matrices.mT) / 2)
        except torch.linalg.LinAlgError:  # not finite, which whoever watches the loss is to see
            values, vectors = matrices[:, 0] * torch.nan, matrices * torch.nan
        rounding = values[:, -1:] * (values.shape[1] * torch.finfo(values.dtype).eps)
        is_zero = values <= rounding
        roots = torch.where(is_zero, 0, values).sqrt()
        ctx.save_for_backward(torch.where(is_zero, 0, 0.5 / roots), vectors)
        return roots.sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        slopes, vectors = ctx.saved_tensors
        return vectors * (slopes * gradient[:, None])[:, None] @ vectors.mT


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1)


def _digits(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, or in float32 on a device that has no other."""
    return tensor if tensor.device.type == "mps" else tensor.double()

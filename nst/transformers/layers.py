"""What image-transformation networks are made of: convolutions that see no zeros, and normalisation by styles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst.pixels import with_margin

EPSILON = 1e-5  # added to variances, as Torch's and PyTorch's normalisations have it
Statistics = tuple[Tensor, Tensor]


class ConditionalInstanceNorm(nn.Module):
    """Instance normalisation with a row of gains and biases for each style (Dumoulin 2017, eq. 5).

    ``y = gain (x - mean) / sqrt(variance + 1e-5) + bias``, where mean and variance are those of each map of each image
    over its positions (Ulyanov 2016, eq. 2). With one style that is plain instance normalisation.

    Args:
        channels: of the maps.
        styles: how many rows there are.

    Attributes:
        gain: ``(S, C)``, ones at first.
        bias: ``(S, C)``, zeros at first.
        given: mean and variance ``(B or 1, C, 1, 1)`` to take in place of the maps' own; None takes their own.
    """

    def __init__(self, channels: int, styles: int = 1) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(styles, channels))
        self.bias = nn.Parameter(torch.zeros(styles, channels))
        self.given: Statistics | None = None

    def forward(self, maps: Tensor, blend: Tensor | None = None) -> Tensor:
        """Normalise maps.

        Args:
            maps: ``(B, C, H, W)``.
            blend: ``(B or 1, S)`` weights of the styles; the rows are summed with them. None is the first style.
        """
        if blend is None:
            gain, bias = self.gain[:1], self.bias[:1]
        else:
            gain, bias = blend @ self.gain, blend @ self.bias
        if self.given is not None:
            mean, variance = self.given
            scale = gain[:, :, None, None] * torch.rsqrt(variance + EPSILON)
            return torch.addcmul(bias[:, :, None, None] - mean * scale, maps, scale)
        # as many groups as channels: the same thing as instance_norm, which takes several times as long on a CPU
        if len(gain) == 1:
            return nnf.group_norm(maps, maps.shape[1], gain[0], bias[0], EPSILON)
        normalised = nnf.group_norm(maps, maps.shape[1], eps=EPSILON)
        return torch.addcmul(bias[:, :, None, None], normalised, gain[:, :, None, None])


@contextlib.contextmanager
def measured(network: nn.Module) -> Iterator[list[Statistics]]:
    """Take note of the statistics that each normalisation meets while images go through a network.

    Returns:
        A list that fills with mean and variance ``(B, C, 1, 1)`` of each normalisation, in order of use.
    """
    found: list[Statistics] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach(), (2, 3), correction=0, keepdim=True)
        found.append((mean, variance))

    hooks = [module.register_forward_pre_hook(note) for module in normalisations(network)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def given(network: nn.Module, statistics: Sequence[Statistics]) -> Iterator[None]:
    """Let each normalisation of a network take these statistics instead of those of its maps.

    With the statistics of a whole picture a part of it comes out as it does within the whole.

    Args:
        network: whose normalisations are used in the order in which they were made, each once.
        statistics: what ``measured`` found.
    """
    modules = normalisations(network)
    for module, own in zip(modules, statistics, strict=True):
        module.given = own
    try:
        yield
    finally:
        for module in modules:
            module.given = None


def normalisations(network: nn.Module) -> list[ConditionalInstanceNorm]:
    """Return the normalisations of a network, in the order in which they were made."""
    return [module for module in network.modules() if isinstance(module, ConditionalInstanceNorm)]


class Convolution(nn.Module):
    """A convolution of maps continued by reflection; then instance normalisation and ReLU, unless told otherwise.

    Args:
        into: channels it is given.
        out: channels it returns.
        kernel: side of its square filters, odd.
        stride: of the convolution.
        styles: rows of the normalisation; 0: no normalisation, but biases (which a normalisation would take out).
        relu: whether negative values become zero.
        padding: ``reflect`` mirrors the maps at their border, ``zeros`` puts zeros around them, ``none`` nothing, so
            that they shrink by ``kernel - 1``.
        groups: of channels that are convolved apart.
    """

    def __init__(
        self,
        into: int,
        out: int,
        kernel: int,
        stride: int = 1,
        styles: int = 1,
        relu: bool = True,
        padding: str = "reflect",
        groups: int = 1,
    ) -> None:
        super().__init__()
        zeros = kernel // 2 if padding == "zeros" else 0
        self.margin = kernel // 2 if padding == "reflect" else 0
        self.convolution = nn.Conv2d(into, out, kernel, stride, zeros, groups=groups, bias=not styles)
        self.norm = ConditionalInstanceNorm(out, styles) if styles else None
        self.relu = relu

    def forward(self, maps: Tensor, blend: Tensor | None = None) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', ceil(H / stride), ceil(W / stride))``, if padded."""
        maps = self.convolution(reflected(maps, self.margin))
        maps = maps if self.norm is None else self.norm(maps, blend)
        return nnf.relu(maps, inplace=True) if self.relu else maps


def reflected(maps: Tensor, margin: int) -> Tensor:
    """Continue maps ``(B, C, H, W)`` by reflection on each side; over and over where they are smaller than that.

    On a GPU they are built from pieces where a gradient is wanted (see ``nst.pixels.with_margin``).
    """
    while margin > 0:
        width = min(margin, maps.shape[2] - 1, maps.shape[3] - 1) if margin > 7 else margin
        if maps.is_cpu or not (torch.is_grad_enabled() and maps.requires_grad):
            maps = nnf.pad(maps, (width,) * 4, mode="reflect")
        else:
            maps = with_margin(maps, width)
        margin -= width
    return maps

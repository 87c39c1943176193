"""What image-transformation networks are made of: convolutions, normalisation by styles, colours in and out."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst.errors import UserError, unknown
from nst.images.pixels import CAFFE_MEAN, PREPROCESSINGS, extended

EPSILON = 1e-5  # added to variances, as Torch's and PyTorch's normalisations have it
SMALLEST = 16  # pixels of a picture's side
OUTPUTS = ("linear", "added", "tanh", "bytes")
GAINS = ("ones", "uniform")
Statistics = tuple[Tensor, Tensor]


class Colours(nn.Module):
    """From RGB in [0, 1] to what a network computes with, and back.

    Images are centred as ImageNet's are (mean 0, deviation 1 for each colour). What the last convolution returns
    becomes RGB in one of four ways:
    ``linear`` undoes the centring, so that a network begins near a mean grey.
    ``added`` is what is added to the image, so that a network begins near the photograph itself.
    ``tanh`` is ``(150 tanh(x) + mean) / 255`` with the mean of ImageNet's bytes (Johnson 2016, the code's models.lua):
    nothing is far outside of [0, 1], but near black and white there is hardly a gradient.
    ``bytes`` is ``(x + mean) / 255`` (Ulyanov 2016, the authors' code): a network has far to go from its first grey.
    """

    mean: Tensor
    deviation: Tensor
    caffe_mean: Tensor

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output, about = output, PREPROCESSINGS["imagenet"]
        for name, value in (("mean", about.mean), ("deviation", about.std), ("caffe_mean", CAFFE_MEAN)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def enter(self, images: Tensor) -> Tensor:
        """Centre images ``(B, 3, H, W)``, RGB in [0, 1]."""
        return (images - self.mean) / self.deviation

    def leave(self, maps: Tensor, images: Tensor) -> Tensor:
        """Turn the last maps ``(B, 3, H, W)`` into RGB, not clamped; ``images`` are what entered."""
        if self.output in ("linear", "added"):
            return torch.addcmul(self.mean if self.output == "linear" else images, maps, self.deviation)
        return ((150 * torch.tanh(maps) if self.output == "tanh" else maps) + self.caffe_mean) / 255


class ConditionalInstanceNorm(nn.Module):
    """Instance normalisation with a row of gains and biases for each style (Dumoulin 2017, eq. 5).

    ``y = gain (x - mean) / sqrt(variance + 1e-5) + bias``, where mean and variance are those of each map of each image
    over its positions (Ulyanov 2016, eq. 2). With one style that is plain instance normalisation.

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
        """Normalise maps ``(B, C, H, W)``; the rows are summed with the weights ``(B or 1, S)`` of a blend."""
        if blend is None:
            return self.with_rows(maps, self.gain[:1], self.bias[:1])
        return self.with_rows(maps, blend @ self.gain, blend @ self.bias)

    def with_rows(self, maps: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """Normalise maps ``(B, C, H, W)`` with gains and biases ``(B or 1, C)`` of the caller's."""
        if self.given is not None:
            mean, variance = self.given
            scale = gain[:, :, None, None] * torch.rsqrt(variance + EPSILON)
            return torch.addcmul(bias[:, :, None, None], maps - mean, scale)
        # as many groups as channels: the same thing as instance_norm, which takes several times as long on a CPU. The
        # function of torch.nn.functional refuses a map of one position, which becomes the bias
        channels = maps.shape[1]
        if len(gain) == 1:
            return torch.group_norm(maps, channels, gain[0], bias[0], EPSILON)
        normalised = torch.group_norm(maps, channels, eps=EPSILON)
        return torch.addcmul(bias[:, :, None, None], normalised, gain[:, :, None, None])


@contextlib.contextmanager
def measured(network: nn.Module) -> Iterator[list[Statistics]]:
    """Take note of the statistics that each normalisation meets while images go through a network.

    Yields:
        A list of mean and variance ``(B, C, 1, 1)`` of each of ``normalisations``, in their order, once images have
        gone through; of several passes the last counts.
    """
    modules = normalisations(network)
    found: list[Statistics] = [(torch.empty(0), torch.empty(0))] * len(modules)

    def note(module: ConditionalInstanceNorm, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach(), (2, 3), correction=0, keepdim=True)
        found[modules.index(module)] = mean, variance

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(module.register_forward_pre_hook(note))
        yield found


@contextlib.contextmanager
def given(network: nn.Module, statistics: Sequence[Statistics]) -> Iterator[None]:
    """Let each normalisation of a network, used once in a pass, take the statistics that ``measured`` found.

    With the statistics of a whole picture a part of it comes out as it does within the whole.
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
    """A convolution; then instance normalisation and ReLU, unless told otherwise.

    Args:
        into: channels it is given.
        out: channels it returns.
        kernel: side of its square filters, odd.
        stride: of the convolution.
        styles: rows of the normalisation; 0: no normalisation, but biases (which a normalisation would take out).
        relu: whether negative values become zero.
        padding: what is beyond the border of the maps: ``reflect`` mirrors them there, ``replicate`` repeats their
            border, ``zeros`` puts zeros there; ``none`` is nothing, so that they shrink by ``kernel - 1``.
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
    ) -> None:
        super().__init__()
        self.padding, self.margin = padding, kernel // 2 if padding in ("reflect", "replicate") else 0
        zeros = kernel // 2 if padding == "zeros" else 0
        self.convolution = nn.Conv2d(into, out, kernel, stride, zeros, bias=not styles)
        self.norm = ConditionalInstanceNorm(out, styles) if styles else None
        self.relu = relu

    def forward(self, maps: Tensor, blend: Tensor | None = None) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', ceil(H / stride), ceil(W / stride))``, if padded."""
        maps = self.convolution(continued(maps, self.margin, self.padding) if self.margin else maps)
        maps = maps if self.norm is None else self.norm(maps, blend)
        return nnf.relu(maps, inplace=True) if self.relu else maps


def continued(maps: Tensor, margin: int, mode: str) -> Tensor:
    """Continue maps beyond their border as ``extended`` does; a gradient on a GPU has the same bits each time."""
    if maps.is_cpu or not (torch.is_grad_enabled() and maps.requires_grad):
        return nnf.pad(maps, (margin,) * 4, mode=mode)  # the same values, sooner
    return extended(maps, margin, mode)


def draw_gains(network: nn.Module, gains: str) -> None:
    """Draw the gains of a network's normalisations from [0, 1) if ``gains`` is ``uniform``; else they remain ones."""
    for norm in normalisations(network) if gains == "uniform" else ():
        nn.init.uniform_(norm.gain)


def refuse_too_small(height: int, width: int) -> None:
    """Raise UserError if a picture is too small for any of these networks."""
    if height < SMALLEST or width < SMALLEST:
        raise UserError(f"A picture of {width} x {height} pixels is too small: each side needs {SMALLEST}.")


def size_problems(**ranges: tuple[object, int, int]) -> list[str]:
    """Return a sentence for each argument of a transformer, given with its limits, that is no whole number in them."""
    return [
        f"transformer.{name}={value} must be a whole number from {least} to {most}."
        for name, (value, least, most) in ranges.items()
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most
    ]


def choice_problems(**choices: tuple[object, tuple[str, ...]]) -> list[str]:
    """Return a sentence for each argument of a transformer, given with what there is, that is none of it."""
    return [
        unknown(f"transformer.{name}", value, known) for name, (value, known) in choices.items() if value not in known
    ]

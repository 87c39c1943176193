"""The residual image-transformation network of Johnson et al., with instance normalisation."""

from torch import Tensor, nn
from torch.nn import functional as nnf

from nst.errors import ConfigError
from nst.transformers import layers
from nst.transformers.layers import GAINS, OUTPUTS, ConditionalInstanceNorm, Convolution

UPSAMPLINGS = ("nearest", "transposed")
PADDINGS = ("reflect", "reflect_start")


class ResidualTransformer(nn.Module):
    """Paints a picture in one pass: two halvings, residual blocks, two doublings (Johnson 2016, supplement, table 1).

    Departs from the paper in what came after it: instance in place of batch normalisation (Ulyanov 2016), nearest
    neighbours and a convolution in place of a fractionally strided one, which leaves checkerboards (Odena 2016), and
    reflection in place of zeros around the maps. A block is two 3x3 convolutions of ``4 width`` maps, without a ReLU
    behind the sum (Gross & Wilber 2016, as in the paper).

    Args:
        width: maps of the first convolution; there are twice as many at half the size, four times at a quarter.
        blocks: residual blocks.
        kernel: side of the filters of the first and the last convolution, odd.
        styles: how many styles it paints in; each has gains and biases of its own (Dumoulin 2017).
        output: how colours are made: ``linear``, ``added`` to the image, ``tanh`` (as in the authors' code) or
            ``bytes``; see ``Colours``.
        upsampling: ``nearest`` (and a convolution) or ``transposed``, a fractionally strided convolution.
        padding: ``reflect`` every map at its border, or ``reflect_start``: only the image, by as much as the blocks'
            convolutions, which have no padding then, cut away (``8 blocks`` pixels); zeros around the others.
        gains: what normalisations multiply with at first: ``ones``, or ``uniform`` in [0, 1).
    """

    def __init__(
        self,
        width: int = 32,
        blocks: int = 5,
        kernel: int = 9,
        styles: int = 1,
        output: str = "linear",
        upsampling: str = "nearest",
        padding: str = "reflect",
        gains: str = "ones",
    ) -> None:
        super().__init__()
        limits = {"width": (width, 1, 1024), "blocks": (blocks, 0, 100), "kernel": (kernel, 1, 31)}
        problems = layers.size_problems(**limits, styles=(styles, 1, 10_000))
        if not problems and kernel % 2 == 0:
            problems.append(f"transformer.kernel={kernel} must be odd, so that a filter has a middle.")
        choices = {"upsampling": (upsampling, UPSAMPLINGS), "padding": (padding, PADDINGS), "gains": (gains, GAINS)}
        problems += layers.choice_problems(**choices, output=(output, OUTPUTS))
        if problems:
            raise ConfigError(problems)
        self.styles = styles
        self.colours = layers.Colours(output)
        self.margin = 8 * blocks if padding == "reflect_start" else 0
        outer, inner = ("reflect", "reflect") if padding == "reflect" else ("zeros", "none")
        halving = (3, width, kernel, 1), (width, 2 * width, 3, 2), (2 * width, 4 * width, 3, 2)
        self.down = nn.ModuleList(Convolution(*sizes, styles, padding=outer) for sizes in halving)
        self.blocks = nn.ModuleList(Block(4 * width, styles, inner) for _ in range(blocks))
        doubling = (4 * width, 2 * width), (2 * width, width)
        self.up = nn.ModuleList(Doubling(*sizes, styles, upsampling, outer) for sizes in doubling)
        self.last = Convolution(width, 3, kernel, styles=0, relu=False, padding=outer)
        layers.draw_gains(self, gains)

    def forward(self, images: Tensor, blend: Tensor | None = None) -> Tensor:
        """Paint images ``(B, 3, H, W)``; see ``nst.transformers``."""
        height, width = images.shape[2:]
        layers.refuse_too_small(height, width)
        maps = _reflected(self.colours.enter(images), self.margin)
        for convolution in self.down:
            maps = convolution(maps, blend)
        for block in self.blocks:
            maps = block(maps, blend)
        for number, doubling in enumerate(self.up):
            maps = doubling(maps, blend, _halved(height, 1 - number), _halved(width, 1 - number))
        return self.colours.leave(self.last(maps), images)


class Block(nn.Module):
    """What is added to maps: two 3x3 convolutions, a ReLU between them (He 2016, without the ReLU behind the sum)."""

    def __init__(self, channels: int, styles: int, padding: str) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3, styles=styles, padding=padding)
        self.second = Convolution(channels, channels, 3, styles=styles, relu=False, padding=padding)
        self.cut = 2 if padding == "none" else 0

    def forward(self, maps: Tensor, blend: Tensor | None = None) -> Tensor:
        """Map ``(B, C, H, W)`` to the same, or to ``(B, C, H - 4, W - 4)`` without padding."""
        inner = maps[:, :, self.cut : -self.cut, self.cut : -self.cut] if self.cut else maps
        return inner + self.second(self.first(maps, blend), blend)


class Doubling(nn.Module):
    """Maps of twice the size: nearest neighbours and a 3x3 convolution, or a fractionally strided convolution."""

    def __init__(self, into: int, out: int, styles: int, upsampling: str, padding: str) -> None:
        super().__init__()
        self.convolution: nn.Module
        if upsampling == "nearest":
            self.convolution, self.norm = Convolution(into, out, 3, styles=styles, padding=padding), None
        else:
            self.convolution = nn.ConvTranspose2d(into, out, 3, 2, padding=1, output_padding=1, bias=False)
            self.norm = ConditionalInstanceNorm(out, styles)

    def forward(self, maps: Tensor, blend: Tensor | None, height: int, width: int) -> Tensor:
        """Map ``(B, C, h, w)`` to ``(B, C', height, width)``, which is ``2 h`` and ``2 w`` or one less."""
        if self.norm is None:
            doubled = nnf.interpolate(maps, scale_factor=2.0, mode="nearest")
            return self.convolution(doubled[:, :, :height, :width], blend)
        return nnf.relu(self.norm(self.convolution(maps)[:, :, :height, :width], blend), inplace=True)


def _halved(size: int, times: int) -> int:
    """Return the size of a side after so many convolutions of stride 2."""
    return (size + 2**times - 1) // 2**times


def _reflected(image: Tensor, margin: int) -> Tensor:
    """Continue an image by reflection on each side; over and over where it is smaller than the margin."""
    while margin > 0:
        width = min(margin, image.shape[2] - 1, image.shape[3] - 1)
        image, margin = layers.continued(image, width, "reflect"), margin - width
    return image

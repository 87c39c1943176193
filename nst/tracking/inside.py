"""Looking inside the network: feature maps and Gram matrices of chosen layers as pictures in TensorBoard.

The pictures of a layer can be compared by eye: channels keep their place, and a colour means the same number for the
content image, the style image and the picture on its way. Black is 0, warm is positive, blue is negative; equal steps
of a value are equal steps of lightness.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from nst.tracking import RunInfo, Snapshot, Tracker, picture_steps

PICTURES = 6  # along the way, beside the start: each costs a pass through the network
CHANNELS = 64  # shown of a layer at most
COLUMNS = 8
CELL = 100  # pixels of a channel's long side, roughly: small maps are enlarged by a whole number
LABEL = 12  # pixels of the line above it, with its number
GAP = 2
GRAM_SIDE = 512  # pixels, roughly, that a smaller matrix is enlarged to
LARGEST_SIDE = 1024  # of a matrix; a larger one is averaged
# Shares of the values that the colours tell apart; the rest, a few peaks, is as bright as they get.
OF_CHANNEL, OF_GRAM = 0.995, 0.999

# Lightness (L* of CIELAB) 0, 12, 24, ... 84, 97 in both halves: from black to white by way of red, and of blue.
POSITIVE = ("000000", "42090e", "701620", "9e291b", "cb4313", "ea6c0b", "fd9914", "ffc95e", "fff6da")
NEGATIVE = ("000000", "0b1d47", "093874", "12559c", "0f76be", "1599de", "4cbbf4", "87ddff", "e4faff")
STEPS = 126  # colours of a half; a palette of 256 holds both, black and the grey of the labels
BACKGROUND, TEXT = 2 * STEPS + 1, 2 * STEPS + 2

Look = Callable[[Tensor], Mapping[str, Tensor]]
Show = Callable[[str, Image.Image, int], None]


class Inside(Tracker):
    """Shows ``features/<layer>/...`` and ``gram/<layer>/...`` of the content image, the style image and the picture.

    Args:
        run: that is watched.
        look: makes the maps ``{layer: (1, C, h, w)}`` of an image ``(1, 3, H, W)`` RGB.
        show: is given a tag, a picture and its step.
    """

    def __init__(self, run: RunInfo, look: Look, show: Show) -> None:
        self.look, self.show = look, show
        self.turns = {0} | picture_steps(run.steps, PICTURES)
        of_content, of_style = self._maps(run.content), self._maps(run.styles[0])
        self.scales = {layer: common_scale(of_content[layer], of_style[layer]) for layer in of_content}
        if not run.begin:  # else they have been shown already
            self._show(of_content, "content", 0)
            self._show(of_style, "style", 0)

    def step(self, snapshot: Snapshot) -> None:
        """Show the picture's maps if its turn has come, or if it is the last."""
        if snapshot.step.index in self.turns or snapshot.step.last:
            assert snapshot.canvas is not None
            image = snapshot.canvas.seen(snapshot.step.pixels)
            self._show(self._maps(image), "picture", snapshot.step.index)

    @torch.no_grad()
    def _maps(self, image: Tensor) -> dict[str, Tensor]:
        return {layer: maps.cpu() for layer, maps in self.look(image).items()}

    def _show(self, maps: dict[str, Tensor], name: str, step: int) -> None:
        for layer, scale in self.scales.items():
            self.show(f"features/{layer}/{name}", features_picture(maps[layer], scale), step)
            self.show(f"gram/{layer}/{name}", gram_picture(maps[layer], scale), step)


@dataclass(frozen=True)
class Scale:
    """How the pictures of a layer are drawn, the same for all of them.

    Attributes:
        channels: numbers of the channels shown, in their order.
        brightest: the value that has the brightest colour, of each of them, ``(n,)``.
        gram_channels: numbers of all channels, in their order in the Gram matrix.
        gram_brightest: the value there that has the brightest colour.
    """

    channels: list[int]
    brightest: Tensor
    gram_channels: list[int]
    gram_brightest: float


def common_scale(content: Tensor, style: Tensor) -> Scale:
    """Choose the channels of a layer, and colours that serve the content image, the style image and the picture.

    Shown are the ``CHANNELS`` with the largest mean activation (of the absolute value, where a layer is not rectified)
    for the content image, the largest first. The Gram matrix has the channels in the order of the style's diagonal, so
    that the style's fades away from its upper left corner, and a picture's does too once it has the style.

    Args:
        content: the content image's map ``(1, C, h, w)``.
        style: the style image's map ``(1, C, h', w')``.
    """
    channels = _descending(content[0].abs().mean((1, 2)))[:CHANNELS]
    sizes = [cells(maps, channels).abs().flatten(1) for maps in (content, style)]
    brightest = torch.stack([size.quantile(OF_CHANNEL, dim=1) for size in sizes]).amax(0)
    grams = [gram_matrix(maps) for maps in (content, style)]
    largest = max(float(gram.abs().flatten().quantile(OF_GRAM)) for gram in grams)
    return Scale(channels, brightest, _descending(grams[1].diagonal()), largest)


def gram_matrix(maps: Tensor) -> Tensor:
    """Return the channel correlations F F^T / (h w), ``(C, C)``, of a map ``(1, C, h, w)`` (Gatys 2016, eq. 3)."""
    rows = maps[0].flatten(1)
    return rows @ rows.T / rows.shape[1]


def cells(maps: Tensor, channels: list[int]) -> Tensor:
    """Return channels of a map ``(1, C, h, w)`` at the size they are shown at, ``(n, height, width)``.

    Small ones are enlarged by a whole number, so that every position stays a square; large ones are averaged.
    """
    chosen = maps[:, channels]
    height, width = chosen.shape[2:]
    share = CELL / max(height, width)
    if share >= 1:
        times = round(share)
        return chosen[0].repeat_interleave(times, 1).repeat_interleave(times, 2)
    return interpolate(chosen, size=(max(round(height * share), 1), max(round(width * share), 1)), mode="area")[0]


def features_picture(maps: Tensor, scale: Scale) -> Image.Image:
    """Draw the channels of a map ``(1, C, h, w)`` in a grid, each under its number, from left to right."""
    shown = cells(maps, scale.channels)
    colors = color_numbers(shown / _positive(scale.brightest)[:, None, None])
    number, height, width = colors.shape
    columns = min(COLUMNS, number)
    rows = -(-number // columns)
    down, across = LABEL + height + GAP, width + GAP
    picture = _picture(np.full((rows * down, columns * across), BACKGROUND, np.uint8))
    draw = ImageDraw.Draw(picture)
    for place, channel in enumerate(scale.channels):
        top, left = place // columns * down, place % columns * across
        draw.text((left, top), str(channel), fill=TEXT)
        picture.paste(_picture(colors[place]), (left, top + LABEL))
    return picture


def gram_picture(maps: Tensor, scale: Scale) -> Image.Image:
    """Draw the Gram matrix of a map ``(1, C, h, w)``, as the signed root of its values.

    The diagonal holds squares and outshines the rest; the root brings both into view.
    """
    gram = gram_matrix(maps)[scale.gram_channels][:, scale.gram_channels]
    roots = gram.sign() * (gram.abs() / _positive(gram.new_tensor(scale.gram_brightest))).sqrt()
    side = len(roots)
    if side > LARGEST_SIDE:
        roots = interpolate(roots[None, None], size=(LARGEST_SIDE, LARGEST_SIDE), mode="area")[0, 0]
    times = max(round(GRAM_SIDE / side), 1)
    return _picture(color_numbers(roots.repeat_interleave(times, 0).repeat_interleave(times, 1)))


def color_numbers(values: Tensor) -> np.ndarray:
    """Return the numbers in the palette, uint8, of values in [-1, 1]; what is beyond is as bright as 1."""
    steps: np.ndarray = values.nan_to_num().clamp(-1, 1).mul(STEPS).round().add(STEPS).to("cpu", torch.uint8).numpy()
    return steps


def palette() -> np.ndarray:
    """Return the colours ``(256, 3)`` by number: -1, ... 0, ... 1, then background and text."""
    halves = []
    for anchors in (NEGATIVE, POSITIVE):
        colors = np.array([list(bytes.fromhex(anchor)) for anchor in anchors], dtype=float)
        at = np.linspace(0, len(anchors) - 1, STEPS + 1)
        halves.append(np.stack([np.interp(at, range(len(anchors)), channel) for channel in colors.T], 1))
    rest = [[24, 24, 24], [200, 200, 200], [0, 0, 0]]
    return np.concatenate([halves[0][:0:-1], halves[1], rest]).round().astype(np.uint8)


def _picture(numbers: np.ndarray) -> Image.Image:
    picture = Image.fromarray(numbers)
    picture.putpalette(palette().tobytes())
    return picture


def _descending(values: Tensor) -> list[int]:
    """Return the places of values, the largest first."""
    places: list[int] = values.argsort(descending=True, stable=True).tolist()
    return places


def _positive(divisor: Tensor) -> Tensor:
    """Return what can be divided by; a channel that is silent for both images is divided by next to nothing."""
    return divisor.clamp(min=torch.finfo(divisor.dtype).tiny)

"""Woodblock printing: a map of blocks, carved with a knife, then printed ink by ink on grainy paper."""

from enum import IntEnum

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from samples.common import Floats, Rng, mix, noise, normals, palette, paper_fibre, pixel_grid, relief_light, ribbon

FINE = 2  # the blocks are cut this much finer than the large drawing, for smooth thin lines
LINE = 0.0021  # half width of the contour lines, in units of the picture's height


class Block(IntEnum):
    """The carved blocks, one per ink."""

    SKY = 0
    INK = 1
    FOAM = 2
    PALE = 3
    MID = 4
    BLUE = 5
    DEEP = 6
    SNOW = 7
    MIST = 8
    SEAL = 9


INKS = palette("efe3c8 16233f f6efdf a8c5cc 6a9bb8 2f6596 17406f f4ecdc e6d0b0 b8392b")
PAPER = palette("f3e9d4")[0]
# How much of the wood's grain shows; blocks that are nearly paper, and the thin key lines, show little.
GRAININESS = {Block.FOAM: 0.25, Block.SNOW: 0.25, Block.INK: 0.5, Block.SKY: 1.5}


class Carving:
    """Cuts shapes into the block map; lengths are in units of the picture's height."""

    def __init__(self, width: int, height: int) -> None:
        self.unit = height * FINE
        self.blocks = Image.new("L", (width * FINE, height * FINE), Block.SKY)
        self.pen = ImageDraw.Draw(self.blocks)

    def area(self, outline: Floats, block: Block) -> None:
        """Fill a polygon."""
        self.pen.polygon([tuple(point) for point in (np.asarray(outline) * self.unit).tolist()], fill=int(block))

    def line(self, path: Floats, half_width: Floats | float, block: Block = Block.INK) -> None:
        """Draw a line whose half width may vary."""
        self.area(ribbon(path, half_width), block)

    def dot(self, centre: Floats, radius: float, block: Block) -> None:
        """Draw a disc."""
        low, high = ((centre + shift) * self.unit for shift in (-radius, radius))
        self.pen.ellipse((*low.tolist(), *high.tolist()), fill=int(block))


Limb = tuple[Floats, Floats]  # a path and its half width along it


def claw(root: Floats, heading: float, length: float, curl: float, rng: Rng, depth: int = 1) -> list[Limb]:
    """A hooked finger of foam with smaller fingers on its inner side; a limb precedes those that grow from it."""
    s = np.linspace(0, 1, 22)
    angle = heading + curl * s**1.4
    step = np.stack([np.cos(angle), np.sin(angle)], -1) * length / len(s)
    path = root + np.cumsum(step, 0) - step[0]
    round_root = np.sqrt(np.clip(s / 0.16, 0.05, 1))
    limbs: list[Limb] = [(path, length * (0.15 * (1 - s) ** 0.75 * round_root + 0.012))]
    if depth:
        for place in (0.18, 0.42, 0.64):
            at = int(place * len(s))
            turn = angle[at] + np.sign(curl) * rng.uniform(0.35, 0.75)
            size = length * (0.74 - 0.45 * place) * rng.uniform(0.85, 1.15)
            limbs += claw(path[at], turn, size, curl * rng.uniform(0.75, 1.1), rng, depth - 1)
    return limbs


def carve_claw(carving: Carving, limbs: list[Limb]) -> None:
    """Foam with one contour around all limbs, and a pale shade along the back of each."""
    for path, half in limbs:
        carving.line(path, half + LINE, Block.INK)
    for path, half in limbs:
        carving.line(path, half, Block.FOAM)
    for path, half in limbs:
        if half.max() > 0.005:
            back = path - normals(path) * _turning(path) * half[:, None] * 0.45
            shade = half * 0.26 * np.sin(np.linspace(0, np.pi, len(half)))
            carving.line(back[3:-3], shade[3:-3], Block.PALE)


def _turning(path: Floats) -> float:
    """1 where a path bends clockwise on the page, otherwise -1."""
    first, last = path[1] - path[0], path[-1] - path[-2]
    return float(np.sign(first[0] * last[1] - first[1] * last[0]))


def wood_grain(width: int, height: int, rng: Rng) -> Floats:
    """Lines of wood, about -1..1: the level curves of a stretched, bent field."""
    _, y = pixel_grid(width, height)
    field = y / 9 + 3.5 * noise(width, height, rng, 330, 3, stretch=(2.2, 0.7))
    pores = 2.7 * field + 1.3 * noise(width, height, rng, 60, 2, stretch=(6, 0.6))
    return 0.6 * np.sin(field) + 0.4 * np.sin(pores)


def print_blocks(carving: Carving, sky: Floats, rng: Rng) -> Floats:
    """Print block after block; ``sky`` is the colour of the sky, which the printer wipes by hand."""
    height, width = sky.shape[:2]
    blocks = np.asarray(carving.blocks)
    grain, mottle = wood_grain(width, height, rng), noise(width, height, rng, 40, 5)
    fibre = paper_fibre(width, height, rng, 14)
    paper = PAPER * (1 + 0.012 * fibre + 0.010 * mottle)[..., None]
    picture = paper
    for block in Block:
        cover = (blocks == block).reshape(height, FINE, width, FINE).mean((1, 3), dtype=np.float32)
        colour = sky if block is Block.SKY else INKS[block]
        density = np.clip(0.92 + GRAININESS.get(block, 1.0) * (0.10 * grain + 0.045 * mottle), 0, 1.08)
        picture = mix(picture, mix(paper, colour, density), cover)
    pressed = gaussian_filter((blocks[::FINE, ::FINE] == Block.INK).astype(np.float32), 2)
    return picture * relief_light(0.25 * fibre - 1.2 * pressed, 0.10)[..., None]

"""A stained-glass window: a sun with its rays above mountains, a lake and poppies."""

import numpy as np

from samples.common import Floats, Mask, Rng, large, palette, pixel_grid, profile, ramp, smoothstep
from samples.glass import Tints, Window

SIZE = (592, 768)
WIDTH, HEIGHT = large(SIZE)
TALL = HEIGHT / WIDTH  # lengths below are in units of the window's width

SUN_X, SUN_Y, SUN_RADIUS = 0.5, 0.43, 0.115
RAYS, CUTS = 22, 13
FRAME, FILLET, PIECE = 0.058, 0.013, 0.0585

SUNLIGHT = palette("fff6c8 ffe37a ffc531 ff9d1c")
RAY_COLOURS = (
    palette("ffe78a ffc23c ff8f2a ee5a3a c23a6a 7a2f9a 3f2fa8 1f3fae"),
    palette("ffd24f ff9a2e e8553a b8356f 6f3fae 2f5fd0 1f86d8 1a6cc0"),
)
FAR_PEAKS = palette("8a5fd0 6a4fc8 b06ac8 4a4fb8 d08ac0")
NEAR_PEAKS = palette("2a3f9a 3f2f8a 2a5aa8 4f3f9f 1f3f80")
LAKE = palette("0f4a9a 1f7ac0 2fa0d0 5fc8e0 1560b0")
GLITTER = palette("ffe9a0 ffc860 ffb04a fff4d0")
MEADOW_FAR = palette("2fa06a 57b85a 1f8a78 8fc850")
MEADOW_NEAR = palette("0f6a4a 1f8a4a 3fa03f 0f5a5a 6fb03a")
PETALS = palette("e01f2a c0102a ff4a2a f0302f")
HEART = palette("2a1030 3a1a3a")
LEAVES = palette("1f7a3a 0f5a3a 5fa83a")
BORDER = (palette("7a0f2f 941a38 640c38"), palette("0f4f6f 17667f 0c3f63"))
CORNER = palette("ffc83a f0a020")

PEAKS_X = (0, 0.12, 0.20, 0.34, 0.50, 0.68, 0.80, 0.90, 1)
FAR_Y = (0.60, 0.53, 0.57, 0.50, 0.63, 0.49, 0.56, 0.50, 0.57)
FOOTHILLS_X = (0, 0.15, 0.30, 0.47, 0.60, 0.78, 0.90, 1)
NEAR_Y = (0.63, 0.66, 0.61, 0.715, 0.69, 0.62, 0.66, 0.62)
SHORE = ((0, 0.74), (0.25, 0.71), (0.5, 0.735), (0.75, 0.72), (1, 0.75))
MEADOWS = (  # the upper border, the colours, the height of the strips
    (((0, 1.2), (0.4, 1.12), (0.62, 0.99), (0.8, 0.88), (1, 0.83)), MEADOW_FAR, 0.075),
    (((0, 0.80), (0.2, 0.83), (0.42, 0.96), (0.7, 1.09), (1, 1.16)), MEADOW_NEAR, 0.070),
)
POPPIES = (  # x, y, radius
    (0.17, 1.00, 0.062),
    (0.33, 1.115, 0.075),
    (0.155, 1.16, 0.055),
    (0.56, 1.165, 0.058),
    (0.77, 1.085, 0.072),
    (0.88, 0.965, 0.050),
    (0.90, 1.185, 0.050),
)


def cycle(colours: Floats, count: int) -> Tints:
    """Tints for ``count`` cells: each colour streaks into the next."""
    return [(colours[n % len(colours)], colours[(n + 1) % len(colours)]) for n in range(count)]


def floor(values: Floats) -> np.ndarray:
    """The whole part, as labels."""
    return np.floor(values).astype(int)


def cut_rays(window: Window, x: Floats, y: Floats, rng: Rng) -> None:
    """The sky: rays of two kinds that spread from the sun, cut across at distances that grow outwards."""
    dx, dy = x - SUN_X, y - SUN_Y
    distance = np.hypot(dx, dy)
    turn = (np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * RAYS
    turn += 0.16 * np.sin(17 * distance) * smoothstep(0.1, 0.4, distance)
    for number in range(RAYS):
        mask = floor(turn) % RAYS == number
        lengths = rng.uniform(0.8, 1.2, CUTS) * np.geomspace(0.045, 0.105, CUTS)
        cuts = np.cumsum(lengths) - 0.02 * (number % 2)
        middles = np.r_[0, (cuts[1:] + cuts[:-1]) / 2, cuts[-1] + 0.05]
        fade = middles / 0.55 + 0.06 * rng.standard_normal(CUTS + 1)
        tints = [ramp(RAY_COLOURS[number % 2], fade + shift) for shift in (0, 0.16)]
        slanted = distance[mask] - SUN_RADIUS + (turn[mask] - number - 0.5) * rng.uniform(-0.02, 0.02)
        window.cut(mask, np.searchsorted(cuts, slanted), list(zip(*tints, strict=True)))


def cut_sun(window: Window, x: Floats, y: Floats) -> None:
    """A core and two rings of petals."""
    dx, dy = x - SUN_X, y - SUN_Y
    distance, turn = np.hypot(dx, dy), np.arctan2(dy, dx) / (2 * np.pi) + 0.5
    for size, petals, shift in ((1.0, 16, 0.5), (0.66, 10, 0.0), (0.30, 1, 0.0)):
        disc = distance < SUN_RADIUS * size
        pair = ramp(SUNLIGHT, np.array([0.95 * size - 0.25, 0.95 * size]))
        window.cut(disc, floor(turn[disc] * petals + shift) % petals, cycle(pair, petals))


def cut_lake(window: Window, mask: Mask, x: Floats, rng: Rng) -> None:
    """Flat cells of water, golden where they mirror the sun."""
    before = len(window.tints)
    window.cut_voronoi(mask, 0.058, LAKE, rng, flat=2.6)
    count = len(window.tints) - before
    label = window.cell[mask] - before
    middle = np.bincount(label, x[mask], count) / np.maximum(np.bincount(label, minlength=count), 1)
    for cell in np.flatnonzero(np.abs(middle - SUN_X) < rng.uniform(0.05, 0.13, count)):
        window.tints[before + cell] = (GLITTER[cell % 4], GLITTER[(cell + 1) % 4])


def cut_poppy(window: Window, dx: Floats, dy: Floats, rng: Rng) -> None:
    """Two leaves, and six wavy petals round a dark heart; ``dx`` and ``dy`` are in units of the flower's radius."""
    for side in rng.uniform(0.4, 1.0) * np.array([-1, 1]):
        along = dx * np.sin(side) + dy * np.cos(side)
        off = dy * np.sin(side) - dx * np.cos(side) - 0.12 * np.sin(2 * along)
        leaf = np.abs(off) < 0.30 * np.sin(np.clip(along / 2.1, 0, 1) * np.pi) ** 0.8
        window.cut(leaf, (off[leaf] > 0).astype(int), [(LEAVES[0], LEAVES[2]), (LEAVES[1], LEAVES[0])])
    distance = np.hypot(dx, dy)
    turn = 6 * np.arctan2(dy, dx) / (2 * np.pi) + rng.uniform(0, 1) + 0.12 * np.sin(3 * distance)
    bloom = distance < 0.88 + 0.12 * np.abs(np.sin(np.pi * turn))
    window.cut(bloom, floor(turn[bloom]) % 6, cycle(PETALS, 6))
    heart = distance < 0.27
    window.cut(heart, np.zeros(heart.sum(), int), cycle(HEART, 1))


def cut_frame(window: Window, x: Floats, y: Floats) -> None:
    """A golden fillet, a border in two alternating colours, and a golden square in each corner."""
    edge_x, edge_y = np.minimum(x, 1 - x), np.minimum(y, TALL - y)
    fillet = np.minimum(edge_x, edge_y) < FRAME + FILLET
    window.cut(fillet, floor((x + y)[fillet] / 0.062), cycle(SUNLIGHT[2:], int((1 + TALL) / 0.062) + 1))
    for side, position, length in ((edge_y < FRAME, x, 1.0), (edge_x < FRAME, y, TALL)):
        inner = length - 2 * FRAME
        pieces = int(inner / PIECE) // 2 * 2 + 1  # an odd number, so that both ends look alike
        label = floor((position[side] - FRAME) / inner * pieces).clip(0, pieces - 1)
        by_colour = [cycle(colours, pieces) for colours in BORDER]
        window.cut(side, label, [by_colour[piece % 2][piece] for piece in range(pieces)])
    corner = (edge_x < FRAME) & (edge_y < FRAME)
    window.cut(corner, 2 * (x[corner] > 0.5) + (y[corner] > TALL / 2), cycle(CORNER, 4))


def draw(rng: Rng) -> Floats:
    """Cut the glass from the sky forwards, and put the sun behind it."""
    x, y = (axis / WIDTH for axis in pixel_grid(WIDTH, HEIGHT))
    window = Window(WIDTH, HEIGHT)
    cut_rays(window, x, y, rng)
    cut_sun(window, x, y)
    window.cut_voronoi(y > np.interp(x, PEAKS_X, FAR_Y), 0.054, FAR_PEAKS, rng)
    window.cut_voronoi(y > np.interp(x, FOOTHILLS_X, NEAR_Y), 0.052, NEAR_PEAKS, rng)
    cut_lake(window, y > profile(SHORE, x), x, rng)
    for border, colours, step in MEADOWS:
        for strip in range(6):
            below = y > profile(border, x) + step * strip * (1 + 0.25 * np.sin(5 * x + strip))
            if below.any():
                window.cut_voronoi(below, 0.056, colours, rng, flat=1.5)
    for poppy_x, poppy_y, radius in POPPIES:
        cut_poppy(window, (x - poppy_x) / radius, 1.12 * (y - poppy_y) / radius, rng)
    cut_frame(window, x, y)
    return window.lit(1 + 0.22 * np.exp(-np.hypot(x - SUN_X, y - SUN_Y) / 0.28), rng)

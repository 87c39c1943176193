"""A Bauhaus composition: circles, triangles, boards and lines in watercolour over a quilt of pale squares."""

import numpy as np

from samples.common import SCALE, Floats, Rng, palette
from samples.watercolour import Point, Sheet, circle, polygon, sector, segment

SIZE = (768, 768)

QUILT = palette("f2d9a8 efc9a0 e9b48c f3e3bd d9d3b8 b9cdc8 a9c3cf e8c4b4 d8b6b0 f5e6c4 c9cfa8 f0d48a")
RED, ORANGE, YELLOW, OCHRE = palette("c8322b e8782a f2bc35 cf9443")
BLUE, SKY, TEAL, VIOLET = palette("1f4e9c 5d9fc9 2f8583 5f3f85")
PINK, NIGHT, GREEN, BROWN = palette("e08a8f 1c2140 7f9c4a 7a4632")
GAP = 0.0016  # of dry paper between neighbouring washes

# Triangles and a bar: corners, colour, strength, fade and its angle
LARGE_SHAPES = (
    (((0.335, 0.93), (0.565, 0.235), (0.80, 0.87)), SKY, 0.75, 0.45, 100),
    (((0.50, 0.80), (0.86, 0.36), (0.93, 0.90)), YELLOW, 0.85, 0.35, 200),
    (((0.06, 0.90), (0.23, 0.52), (0.40, 0.86)), RED, 0.80, 0.35, 60),
    (((0.02, 0.56), (0.33, 0.50), (0.36, 0.58), (0.03, 0.66)), TEAL, 0.80, 0.40, 0),
)
# Rings round one centre: x, y, radii and colours from the outermost inwards
TARGETS = (
    (0.25, 0.25, (0.165, 0.140, 0.125, 0.06), (ORANGE, YELLOW, NIGHT, VIOLET)),
    (0.755, 0.205, (0.105, 0.085, 0.05, 0.022), (BLUE, YELLOW, ORANGE, NIGHT)),
    (0.62, 0.60, (0.082, 0.066, 0.040), (VIOLET, PINK, BLUE)),
)
MOONS = ((0.215, 0.215, 0.030, RED), (0.85, 0.285, 0.055, RED), (0.565, 0.655, 0.045, GREEN))
FAN = (RED, ORANGE, YELLOW, TEAL, SKY, BLUE, NIGHT)
ARCHES = (BLUE, OCHRE, RED, NIGHT, TEAL, YELLOW)
BOWLS = (ORANGE, VIOLET, SKY, RED, PINK, BROWN)
# Skewed chessboards: corner, the sides to the right and down, their numbers of fields, colours of the dark fields
BOARDS = (
    ((0.385, 0.055), (0.205, 0.025), (-0.035, 0.150), (6, 4), (NIGHT, RED, BLUE)),
    ((0.845, 0.42), (0.125, -0.03), (0.03, 0.17), (4, 6), (NIGHT, TEAL, ORANGE)),
    ((0.10, 0.70), (0.13, 0.035), (-0.035, 0.10), (5, 4), (NIGHT, OCHRE)),
)
# Small discs with a halo: x, y, radius
PLANETS = (
    (0.060, 0.080, 0.022),
    (0.470, 0.330, 0.017),
    (0.420, 0.440, 0.028),
    (0.050, 0.450, 0.019),
    (0.930, 0.100, 0.026),
    (0.655, 0.360, 0.020),
    (0.510, 0.500, 0.013),
    (0.300, 0.470, 0.016),
    (0.450, 0.900, 0.022),
    (0.755, 0.520, 0.016),
    (0.620, 0.110, 0.014),
    (0.530, 0.885, 0.014),
)
PLANET_COLOURS, HALO_COLOURS = (RED, BLUE, YELLOW, VIOLET, TEAL, NIGHT), (YELLOW, PINK, SKY)
# Straight lines: ends and width
SEGMENTS = (
    (0.015, 0.840, 0.700, 0.020, 1.7),
    (0.100, 0.985, 0.985, 0.330, 1.2),
    (0.300, 0.030, 0.600, 0.985, 1.0),
    (0.335, 0.930, 0.565, 0.235, 2.0),
    (0.565, 0.235, 0.800, 0.870, 1.4),
    (0.800, 0.870, 0.335, 0.930, 0.8),
    (0.060, 0.900, 0.230, 0.520, 1.4),
    (0.230, 0.520, 0.400, 0.860, 2.2),
    (0.420, 0.700, 0.985, 0.630, 0.8),
    (0.420, 0.715, 0.985, 0.645, 0.8),
    (0.020, 0.040, 0.980, 0.040, 0.7),
    (0.040, 0.947, 0.460, 0.946, 1.1),
)
# Arcs: centre, radius, the angles between which they run, and width
ARCS = (
    (0.250, 0.250, 0.205, 0, 360, 1.0),
    (0.250, 0.250, 0.225, 150, 330, 2.4),
    (0.250, 0.250, 0.240, 165, 300, 0.8),
    (0.755, 0.205, 0.125, 200, 20, 1.0),
    (0.755, 0.205, 0.105, 0, 360, 1.2),
    (0.620, 0.600, 0.100, 120, 300, 2.2),
    (0.620, 0.600, 0.115, 140, 280, 0.8),
    (1.000, 1.000, 0.360, 180, 270, 2.0),
    (1.000, 1.000, 0.380, 180, 270, 0.8),
    (0.500, 0.430, 0.160, 130, 215, 2.8),
    (0.500, 0.430, 0.175, 135, 205, 0.9),
    (0.130, 0.470, 0.090, 190, 350, 1.8),
)
# Rows of parallel strokes: where they stand (from, to), each stroke's direction, their number and width
COMBS = (
    ((0.440, 0.235), (0.555, 0.200), (0.022, 0.055), 11, 0.9),
    ((0.030, 0.600), (0.190, 0.585), (0.006, 0.036), 18, 0.8),
    ((0.660, 0.440), (0.780, 0.400), (0.015, 0.045), 12, 1.1),
    ((0.040, 0.150), (0.040, 0.360), (0.030, 0.012), 16, 0.9),
    ((0.885, 0.140), (0.985, 0.210), (0.000, 0.050), 12, 0.9),
)


def quilt(sheet: Sheet, x: float, y: float, width: float, height: float, depth: int, rng: Rng) -> None:
    """Pale patches: a rectangle halved, or cut in the golden ratio, again and again at random."""
    if depth and (max(width, height) > 0.12 or rng.random() < 0.6):
        share = rng.choice([0.382, 0.5, 0.618])
        if width > height * rng.uniform(0.8, 1.25):
            quilt(sheet, x, y, width * share, height, depth - 1, rng)
            quilt(sheet, x + width * share, y, width * (1 - share), height, depth - 1, rng)
        else:
            quilt(sheet, x, y, width, height * share, depth - 1, rng)
            quilt(sheet, x, y + height * share, width, height * (1 - share), depth - 1, rng)
        return
    left, top, right, bottom = x + GAP, y + GAP, x + width - GAP, y + height - GAP
    patch = polygon((left, top), (right, top), (right, bottom), (left, bottom))
    sheet.wash(patch, rng.choice(QUILT), rng.uniform(0.55, 1.0), 0.35, rng.uniform(0, 360))
    ornament = rng.random()
    if ornament < 0.15:
        sheet.wash(circle(x + width / 2, y + height / 2, 0.32 * min(width, height)), rng.choice(QUILT))
    elif ornament < 0.30:
        sheet.wash(polygon((left, bottom), (right, bottom), (right, top)), rng.choice(QUILT))


def target(sheet: Sheet, x: float, y: float, radii: tuple[float, ...], colours: tuple[Floats, ...]) -> None:
    """Rings with a hair of dry paper between them."""
    sheet.lift(circle(x, y, radii[0]), 0.85)
    for outer, inner, colour in zip(radii, (*radii[1:], 0.0), colours, strict=True):
        sheet.wash(circle(x, y, outer), colour, 0.98, 0.2, 60, circle(x, y, inner + GAP) if inner else None)


def fan(sheet: Sheet) -> None:
    """Quarter rings round the lower right corner, in four sectors that shift the colours."""
    sheet.lift(circle(1.0, 1.0, 0.36), 0.92)
    for ring, outer in enumerate(np.linspace(0.36, 0.10, 7)):
        for part in range(4):
            piece = sector(1.0, 1.0, outer, outer - 0.0415, 180.4 + 22.5 * part, 202.1 + 22.5 * part)
            sheet.wash(piece, FAN[(ring + 2 * part) % len(FAN)], 0.85, 0.25, 70 * part)


def arcade(sheet: Sheet) -> None:
    """Arches above a line and bowls below it."""
    for number, (arch, bowl) in enumerate(zip(ARCHES, BOWLS, strict=True)):
        x = 0.075 + 0.062 * number
        sheet.wash(circle(x, 0.945, 0.030, 180, 360), arch, 0.9, 0.2)
        sheet.wash(circle(x + 0.031, 0.947, 0.018, 0, 180), bowl)


def board(
    sheet: Sheet, corner: Point, right: Point, down: Point, count: tuple[int, int], colours: tuple[Floats, ...]
) -> None:
    """A skewed chessboard: coloured fields take turns with bare paper, ruled in ink."""
    origin, far_u, far_v = np.array(corner), np.array(right), np.array(down)
    u, v = far_u / count[0], far_v / count[1]
    sheet.lift(polygon(*map(tuple, (origin, origin + far_u, origin + far_u + far_v, origin + far_v))), 0.75)
    for column, row in np.ndindex(count):
        if (column + row) % 2 == 0:
            start = origin + u * column + v * row
            field = polygon(*map(tuple, (start, start + u, start + u + v, start + v)))
            sheet.wash(field, colours[(3 * column + row) % len(colours)], 0.95)
    for column in range(count[0] + 1):
        sheet.ink(segment(*(origin + u * column), *(origin + u * column + far_v)), 0.8)
    for row in range(count[1] + 1):
        sheet.ink(segment(*(origin + v * row), *(origin + v * row + far_u)), 0.8)


def rule(sheet: Sheet) -> None:
    """All the lines: straight, round, in combs, and three waves."""
    for *ends, width in SEGMENTS:
        sheet.ink(segment(*ends), width)
    for *arc, width in ARCS:
        sheet.ink(circle(*arc), width)
    for start, end, (dx, dy), count, width in COMBS:
        for x, y in np.linspace(start, end, count):
            sheet.ink(segment(x, y, x + dx, y + dy), width)
    across = np.linspace(0, 0.36, 120)
    for level in (0.335, 0.349, 0.363):
        wave = level - 0.12 * across + 0.014 * np.sin(75 * across)
        sheet.ink(np.stack([0.60 + across, wave], -1), 1.0)


def draw(rng: Rng) -> Floats:
    """The quilt, large shapes, then small ones, then ink."""
    sheet = Sheet(SIZE[0] * SCALE, rng)
    quilt(sheet, -0.01, -0.01, 1.02, 1.02, 8, rng)
    for corners, colour, strength, fade, angle in LARGE_SHAPES:
        sheet.wash(polygon(*corners), colour, strength, fade, angle)
    sheet.wash(circle(0.25, 0.25, 0.205), PINK, 0.65, 0.25, 120)
    for x, y, radii, colours in TARGETS:
        target(sheet, x, y, radii, colours)
    for x, y, radius, colour in MOONS:
        sheet.wash(circle(x, y, radius), colour, 0.88, 0.2)
    fan(sheet)
    arcade(sheet)
    for corner, right, down, count, fields in BOARDS:
        board(sheet, corner, right, down, count, fields)
    for number, (x, y, radius) in enumerate(PLANETS):
        sheet.lift(circle(x, y, 1.55 * radius), 0.7)
        sheet.wash(circle(x, y, 1.55 * radius), HALO_COLOURS[number % 3], 0.7)
        sheet.wash(circle(x, y, radius), PLANET_COLOURS[number % 6], 0.95)
    rule(sheet)
    return sheet.lit()

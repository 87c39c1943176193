"""A great wave after the Japanese woodblock prints: stripes of blue, claws of foam, a mountain far away."""

import numpy as np

from samples.common import Floats, Rng, large, noise, palette, pixel_grid, ramp, smoothstep, spline
from samples.woodblock import LINE, Block, Carving, carve_claw, claw, print_blocks

SIZE = (768, 544)
WIDTH, HEIGHT = large(SIZE)

Points = tuple[tuple[float, float], ...]  # lengths are in units of the picture's height

BOKASHI = palette("1d3f6b 4f7596 a9b9b4 e3d9bd efe3c8 eed9b4 e6bf95 dba27d")

# x, y, length, half width
MISTS = (
    (1.02, 0.235, 0.50, 0.011),
    (1.13, 0.275, 0.50, 0.009),
    (0.95, 0.430, 0.30, 0.007),
    (1.25, 0.460, 0.40, 0.010),
    (-0.10, 0.130, 0.32, 0.010),
    (-0.05, 0.170, 0.20, 0.008),
)
LEFT_SLOPE: Points = ((0.80, 0.735), (0.90, 0.69), (0.965, 0.635), (1.005, 0.585))
RIGHT_SLOPE: Points = ((1.03, 0.585), (1.07, 0.63), (1.14, 0.69), (1.26, 0.735))
SNOW_X = (1.10, 1.083, 1.07, 1.052, 1.035, 1.018, 1.0, 0.985, 0.972, 0.95)
SNOW_Y = (0.66, 0.667, 0.645, 0.672, 0.645, 0.68, 0.645, 0.667, 0.64, 0.65)

# The great wave lies between its back and its hollow face; both run from the foot to the tip of the lip.
BACK: Points = (
    (-0.32, 1.05),
    (-0.20, 0.74),
    (-0.02, 0.47),
    (0.19, 0.255),
    (0.40, 0.135),
    (0.60, 0.105),
    (0.77, 0.16),
    (0.875, 0.28),
    (0.89, 0.40),
)
FACE: Points = (
    (0.98, 1.08),
    (0.66, 0.93),
    (0.47, 0.76),
    (0.405, 0.58),
    (0.45, 0.42),
    (0.56, 0.315),
    (0.69, 0.285),
    (0.80, 0.325),
    (0.88, 0.41),
)
STEPS = 240
STRIPES = (Block.MID, Block.PALE, Block.BLUE, Block.FOAM, Block.BLUE, Block.MID, Block.PALE, Block.BLUE)

HORIZON: Points = ((0.25, 0.75), (0.6, 0.742), (0.8, 0.728), (1.0, 0.738), (1.2, 0.722), (1.45, 0.73))
FAR_SWELL: Points = ((0.62, 0.90), (0.8, 0.83), (1.0, 0.77), (1.15, 0.715), (1.30, 0.70), (1.46, 0.74))
NEAR_SWELL: Points = ((0.42, 1.0), (0.62, 0.94), (0.86, 0.87), (1.08, 0.85), (1.26, 0.88), (1.46, 0.96))
LEFT_SWELL: Points = ((-0.06, 0.80), (0.08, 0.76), (0.22, 0.775), (0.38, 0.85), (0.56, 0.94), (0.72, 1.02))
SPRAY: Points = ((0.35, 0.10), (0.62, 0.06), (0.86, 0.14), (0.98, 0.32), (0.94, 0.50))
SEAL_X, SEAL_Y, SEAL_SIDE = 1.325, 0.06, 0.052


def heading_at(path: Floats, at: int) -> float:
    """The direction of a path near one of its points."""
    ahead = path[min(at + 3, len(path) - 1)] - path[max(at - 3, 0)]
    return float(np.arctan2(ahead[1], ahead[0]))


def carve_mist(carving: Carving) -> None:
    """Bands of mist with rounded ends."""
    s = np.linspace(0, 1, 60)
    for x, y, length, thickness in MISTS:
        path = np.stack([x + length * s, y + 0.004 * np.sin(s * 7 + x * 9)], -1)
        half = thickness * np.sqrt(np.clip(6 * np.sin(np.pi * s), 0, 1))
        carving.line(path, half + 0.6 * LINE, Block.INK)
        carving.line(path, half, Block.MIST)


def carve_mountain(carving: Carving) -> None:
    """The far cone with its snow."""
    left, right = spline(LEFT_SLOPE, 40), spline(RIGHT_SLOPE, 40)
    snow_line = np.stack([SNOW_X, SNOW_Y], -1)
    carving.area(np.concatenate([left, right]), Block.BLUE)
    carving.area(np.concatenate([left[left[:, 1] < 0.648], right[right[:, 1] < 0.66], snow_line]), Block.SNOW)
    for path in (left, right, np.stack([left[-1], (1.017, 0.589), right[0]]), snow_line):
        carving.line(path, 0.8 * LINE)


def carve_swell(carving: Carving, crest: Points, rows: int, gap: float, claws: float, rng: Rng) -> None:
    """A hill of water: everything below its crest, with broken stripes along it and, maybe, foam on top."""
    path = spline(crest, 160)
    s = np.linspace(0, 1, len(path))
    carving.line(path, 1.6 * LINE)
    carving.area(np.concatenate([path, [(path[-1, 0], 1.2), (path[0, 0], 1.2)]]), Block.DEEP)
    for row in range(rows):
        drop = gap * (row + 0.75) * (0.75 + 0.5 * smoothstep(0, 1, s)) + 0.006 * np.sin(s * 9 + row * 1.3)
        lower = path + np.stack([np.full_like(s, 0.012 * row), drop], -1)
        first = rng.uniform(-0.1, 0.15)
        while first < 0.95:
            last = first + rng.uniform(0.3, 0.6)
            part = lower[(s > first) & (s < last)]
            if len(part) > 8:
                taper = np.sin(np.linspace(0, np.pi, len(part))) ** 0.8
                block = rng.choice((Block.MID, Block.BLUE, Block.PALE), p=(0.4, 0.42, 0.18))
                carving.line(part, 0.3 * gap * taper + 0.0004, Block(block))
            first = last + 0.02
    if claws:
        carve_foam_edge(carving, path[4:-4], claws, rng)


def carve_foam_edge(carving: Carving, path: Floats, size: float, rng: Rng) -> None:
    """A fringe of foam along a crest: a white band, and claws that fall forwards over it."""
    s = np.linspace(0, 1, len(path))
    half = size * (0.20 + 0.07 * np.sin(s * 31) + 0.05 * np.sin(s * 57 + 1)) * np.sin(np.pi * s) ** 0.4
    carving.line(path, half + LINE, Block.INK)
    carving.line(path, half, Block.FOAM)
    length = np.hypot(*np.diff(path, axis=0).T).sum()
    for place in np.linspace(0.04, 0.94, int(length / (0.36 * size))):
        at = int(place * len(path))
        root, heading = path[at] + rng.uniform(-0.1, 0.1, 2) * size, heading_at(path, at) + rng.uniform(-0.5, 0.1)
        carve_claw(carving, claw(root, heading, size * rng.uniform(0.6, 1.0), rng.uniform(1.7, 2.5), rng))


def carve_great_wave(carving: Carving, rng: Rng) -> None:
    """The curling wave, from the water inwards to the foam."""
    back, face = spline(BACK, STEPS), spline(FACE, STEPS)
    for path in (back, face):
        carving.line(path, 1.5 * LINE)
    carving.area(np.concatenate([back, face[::-1]]), Block.DEEP)
    carve_stripes(carving, back, face)
    carve_lip(carving, back, face, rng)


def between(face: Floats, back: Floats, share: Floats) -> Floats:
    """A path between the face (share 0) and the back (share 1) of the wave."""
    return face + (back - face) * share[:, None]


def carve_stripes(carving: Carving, back: Floats, face: Floats) -> None:
    """Stripes that run from the trough up to the lip and taper at both ends."""
    s = np.linspace(0, 1, STEPS)
    gap = np.hypot(*(back - face).T)
    for number, share in enumerate(np.linspace(0.05, 0.93, 17)):
        ragged_foot = 0.02 + 0.16 * (number * 5 % 7) / 7
        half = 0.0165 * gap * smoothstep(ragged_foot, 0.45, s) * smoothstep(1.02, 0.8, s)
        path = between(face, back, share + 0.0035 * np.sin(s * 8 + number))
        carving.line(path, half + 0.9 * LINE, Block.INK)
        carving.line(path, half + 0.0004, STRIPES[number % len(STRIPES)])


def carve_lip(carving: Carving, back: Floats, face: Floats, rng: Rng) -> None:
    """The foam: a white ground, long claws that hang into the hollow, and rows of claws that overlap inwards."""
    s = np.linspace(0, 1, STEPS)
    reach = 1 - 0.60 * smoothstep(0.30, 0.62, s) - 0.36 * smoothstep(0.62, 0.9, s)
    reach += 0.05 * np.sin(s * 45) * smoothstep(0.3, 0.5, s)
    edge, start = between(face, back, reach), int(0.275 * STEPS)
    carving.line(edge[start:], 1.3 * LINE)
    carving.area(np.concatenate([back[start:], edge[start:][::-1]]), Block.FOAM)

    for place in np.linspace(0.50, 0.97, 15):
        at = int(place * STEPS)
        heading, length = heading_at(edge, at) + rng.uniform(0.8, 1.3), rng.uniform(0.15, 0.21)
        carve_claw(carving, claw(edge[at], heading, length, rng.uniform(0.7, 1.3), rng, depth=2))
    for share in np.linspace(1.0, 0.02, 7):
        path = between(face, back, np.full(STEPS, share))
        for place in np.arange(0.30, 0.99, 0.036):
            at = int((place + rng.uniform(-0.01, 0.01)) * STEPS)
            if share < reach[at] - 0.09:
                continue
            heading = heading_at(path, at) + rng.uniform(-0.15, 0.45)
            length = (0.060 + 0.075 * np.clip((s[at] - 0.3) / 0.45, 0, 1)) * rng.uniform(0.75, 1.15)
            carve_claw(carving, claw(path[at], heading, length, rng.uniform(1.7, 2.7), rng))


def carve_spray(carving: Carving, rng: Rng) -> None:
    """Drops thrown up from the crest and ahead of the lip."""
    course = spline(SPRAY, 300)
    for _ in range(240):
        centre = course[rng.integers(300)] + rng.normal(0, 0.035, 2)
        radius = 0.0018 + 0.0045 * rng.random() ** 3
        carving.dot(centre, radius + 0.6 * LINE, Block.INK)
        carving.dot(centre, radius, Block.FOAM)


def carve_seal(carving: Carving) -> None:
    """A red seal: the moon over two waves."""
    corner = np.array([SEAL_X, SEAL_Y])
    carving.area(corner + SEAL_SIDE * np.array([(0, 0), (1, 0), (1, 1.25), (0, 1.25)]), Block.SEAL)
    carving.dot(corner + SEAL_SIDE * np.array([0.5, 0.40]), 0.22 * SEAL_SIDE, Block.SNOW)
    s = np.linspace(0.14, 0.86, 40)
    for level in (0.78, 0.98):
        ripple = np.stack([s, level + 0.06 * np.sin(s * 17)], -1)
        carving.line(corner + SEAL_SIDE * ripple, 0.0024, Block.SNOW)


def draw(rng: Rng) -> Floats:
    """Carve everything from the sky forwards, wipe the gradient of the sky, and print."""
    carving = Carving(WIDTH, HEIGHT)
    carve_mist(carving)
    carve_mountain(carving)
    carve_swell(carving, HORIZON, 8, 0.018, 0.0, rng)
    carve_swell(carving, FAR_SWELL, 9, 0.026, 0.055, rng)
    carve_great_wave(carving, rng)
    carve_swell(carving, NEAR_SWELL, 7, 0.026, 0.065, rng)
    carve_swell(carving, LEFT_SWELL, 9, 0.026, 0.075, rng)
    carve_spray(carving, rng)
    carve_seal(carving)

    _, y = pixel_grid(WIDTH, HEIGHT)
    unevenness = 0.012 * noise(WIDTH, HEIGHT, rng, 40, 5) + 0.02 * noise(WIDTH, HEIGHT, rng, 500, 2)
    return print_blocks(carving, ramp(BOKASHI, 1.36 * y / HEIGHT + unevenness), rng)

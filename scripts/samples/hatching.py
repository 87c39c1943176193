"""An engraved landscape: mountains by a lake, firs, heaped clouds, rays of the sun.

A small renderer looks at a terrain and tells the engraver, for every pixel, how dark it is and which way its lines
should run: down the slopes, round the clouds, level on water and in the sky.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from samples.common import Floats, Mask, Rng, noise, pixel_grid, sample, smoothstep
from samples.engraving import LineGrower, Plate, Scene

SIZE = (768, 576)
WIDTH, HEIGHT = SIZE

# The camera: the row of the horizon, the focal length in pixels, the height of the eye
HORIZON, FOCUS, EYE = 0.60 * HEIGHT, 0.66 * WIDTH, 0.17
DEPTHS = np.geomspace(0.30, 15.0, 900)
LIGHT = np.array([-0.80, 0.50, -0.34]) / np.linalg.norm([-0.80, 0.50, -0.34])
SUN, SUN_RADIUS = (0.16 * WIDTH, 0.20 * HEIGHT), 30

# The terrain: a map this wide and long, with so many cells to the unit
BREADTH, LENGTH, CELLS = 18, 15, 60
PEAKS = ((-1.5, 8.2, 2.2, 1.5), (2.9, 9.5, 1.9, 1.7), (0.9, 11.5, 1.7, 1.6))  # x, z, height, girth
CLOUDS = (  # x, y, length as shares of the picture; size of the puffs in pixels
    (0.70, 0.30, 0.30, 34),
    (0.93, 0.16, 0.20, 30),
    (0.40, 0.12, 0.16, 20),
    (0.10, 0.40, 0.16, 22),
    (0.47, 0.38, 0.14, 17),
)
PINES = (  # x, y of the foot as shares of the picture; height in pixels
    (0.885, 0.80, 230),
    (0.965, 0.86, 330),
    (0.800, 0.78, 120),
    (0.055, 0.84, 190),
    (0.125, 0.82, 110),
    (0.845, 0.83, 150),
)
# Of each set of lines: its turn against the form, the darkness from which it is needed, and how fast it swells
HATCHES = ((0.0, 0.07, 0.55), (0.75, 0.40, 0.75), (-0.65, 0.58, 0.9))


@dataclass
class View:
    """What the camera sees of the terrain."""

    scene: Scene
    land: Mask  # land or water, not sky
    water: Mask
    depth: Floats


def terrain(rng: Rng) -> Floats:
    """Heights on the map: a bank before us, a lake at height 0, and ridged mountains behind it."""
    columns, rows = BREADTH * CELLS, LENGTH * CELLS
    x, z = pixel_grid(columns, rows)
    x, z = x / CELLS - BREADTH / 2, z / CELLS
    ridges = np.zeros_like(x)
    for octave in range(6):
        crest = 1 - 0.85 * np.abs(noise(columns, rows, rng, 3.4 * CELLS / 2**octave, 1))
        # Ridges grow on ridges, while valleys stay smooth, as in weathered mountains.
        ridges += crest * np.clip(ridges if octave else 1, 0.3, 1.2) * 0.5**octave
    foothills = smoothstep(2.4, 6.5, z + 0.35 * np.abs(x) - 0.6 * np.exp(-((x + 0.3) ** 2)))
    height = foothills * (0.15 + 0.85 * ridges) * (0.65 + 0.10 * z) - 0.12
    for peak_x, peak_z, top, girth in PEAKS:
        distance = np.hypot((x - peak_x) * 1.15, z - peak_z)
        height += top * np.exp(-distance / girth) * (0.72 + 0.28 * ridges)
    bank = smoothstep(1.25, 0.45, z + 0.55 * np.exp(-(((x - 0.02) / 0.27) ** 2)))
    return height + bank * (0.225 + 0.030 * noise(columns, rows, rng, 0.35 * CELLS, 4))


def look(heights: Floats) -> View:
    """March away from the camera in every column; nearer ground hides what is behind and lower."""
    side = (np.arange(WIDTH) - WIDTH / 2) / FOCUS
    distances = np.broadcast_to(DEPTHS[:, None], (len(DEPTHS), WIDTH))
    level = np.maximum(sample(heights, on_map(side, distances)), 0)
    skyline = np.minimum.accumulate(HORIZON - FOCUS * (level - EYE) / distances, 0)
    rows = np.arange(HEIGHT) + 0.5
    hit = np.stack([np.searchsorted(-column, -rows) for column in skyline.T], 1)
    land = hit < len(DEPTHS)
    depth = DEPTHS[np.minimum(hit, len(DEPTHS) - 1)]

    place = on_map(side, depth)
    ground = sample(heights, place)
    rise_z, rise_x = (sample(rise, place) for rise in np.gradient(gaussian_filter(heights, 0.7), 1 / CELLS))
    shine = (LIGHT[1] - rise_x * LIGHT[0] - rise_z * LIGHT[2]) / np.sqrt(1 + rise_x**2 + rise_z**2)
    haze = (1 - 0.35 * smoothstep(1.6, 0.5, depth)) * np.exp(-np.clip(depth - 2, 0, None) / 11)
    darkness = (0.98 - 1.02 * np.clip(shine, -0.2, 1)) * haze

    # The line of steepest descent, (-rise_x, -rise_x² - rise_z², -rise_z), as it appears on the picture
    across = -rise_x + side * rise_z
    down = rise_x**2 + rise_z**2 - (ground - EYE) / depth * rise_z
    angle = soften(np.arctan2(down, across), 3.0)

    water = land & (ground <= 0)
    angle[water] = 0
    far = np.log(depth)
    jump = np.abs(np.diff(far, axis=0, prepend=far[:1])) > 0.10
    jump |= np.abs(np.diff(far, axis=1, prepend=far[:, :1])) > 0.10
    borders = (jump | np.roll(jump, -1, 0)) & land & ~water
    spacing = np.where(water, 3.2, 3.1 + 0.8 * smoothstep(1.6, 0.5, depth))
    return View(Scene(darkness, angle, spacing, borders), land, water, depth)


def on_map(side: Floats, depth: Floats) -> Floats:
    """Cells of the map at the given depths, seen in the direction ``side``."""
    return np.stack([(side * depth + BREADTH / 2) * CELLS, depth * CELLS], -1)


def soften(angle: Floats, blur: float) -> Floats:
    """Smooth a field of line directions, for which opposite headings are the same."""
    return 0.5 * np.arctan2(gaussian_filter(np.sin(2 * angle), blur), gaussian_filter(np.cos(2 * angle), blur))


def sky(rng: Rng) -> Scene:
    """A ruled sky with rays from the sun, and clouds before it."""
    x, y = pixel_grid(WIDTH, HEIGHT)
    dx, dy = x - SUN[0], y - SUN[1]
    distance, turn = np.hypot(dx, dy), np.arctan2(dy, dx)
    rays = np.sin(turn * 15 + 0.8 * np.sin(turn * 4)) * smoothstep(30, 140, distance)
    darkness = 0.14 + 0.36 * smoothstep(20, 420, distance) + 0.10 * rays - 0.14 * y / HORIZON
    darkness[distance < SUN_RADIUS] = 0
    angle = 0.10 * noise(WIDTH, HEIGHT, rng, 300, 2)

    bulge = cloud_relief(rng)
    rise_y, rise_x = np.gradient(gaussian_filter(bulge, 1.2))
    facing = (0.62 * rise_x + 0.70 * rise_y + 0.45) / np.sqrt(1 + rise_x**2 + rise_y**2)
    cloud = bulge > 0
    darkness = np.where(cloud, np.clip(0.40 - 0.66 * facing, 0, 0.62), darkness)
    angle = np.where(cloud, soften(np.arctan2(rise_y, rise_x) + np.pi / 2, 2.0), angle)
    return Scene(darkness, angle, np.full_like(x, 3.4), cloud ^ binary_dilation(cloud))


def cloud_relief(rng: Rng) -> Floats:
    """How far the clouds bulge towards us: heaps of puffs on level bases, not quite round."""
    x, y = (axis + 2.2 * noise(WIDTH, HEIGHT, rng, 30, 3) for axis in pixel_grid(WIDTH, HEIGHT))
    bulge = np.zeros_like(x)
    for centre, base, length, size in CLOUDS:
        for _ in range(30):
            along = rng.uniform(-0.8, 0.8)
            radius = size * (1.05 - 0.55 * abs(along)) * rng.uniform(0.45, 1.1)
            lift = 0.55 * radius + rng.uniform(0, 1.3) * size * np.exp(-((along / 0.4) ** 2))
            puff_x, puff_y = (centre + along * length) * WIDTH, base * HEIGHT - lift
            roundness = 1 - ((x - puff_x) ** 2 + (y - puff_y) ** 2) / radius**2
            bulge = np.maximum(bulge, radius * np.sqrt(np.clip(roundness, 0, None)))
    return bulge


def reflect(darkness: Floats, water: Mask, rng: Rng) -> Floats:
    """The darkness of still water, which mirrors what stands behind it, broken by ripples."""
    shore = np.argmax(water, 0)
    below = np.arange(HEIGHT)[:, None] - shore
    mirrored = np.clip(shore - 1.35 * below, 0, HEIGHT - 1).astype(int)
    mirror = gaussian_filter(darkness[mirrored, np.arange(WIDTH)], (1.5, 2.0))
    ripples = noise(WIDTH, HEIGHT, rng, 26, 3, stretch=(3.5, 0.25))
    return np.clip(0.06 + 0.85 * mirror + 0.10 * ripples + below / 1500, 0.05, 0.9)


def compose(rng: Rng) -> tuple[Scene, Mask, Floats]:
    """Put sky, land and reflections together; also return their outlines and where grass may grow."""
    view, above = look(terrain(rng)), sky(rng)
    near = view.scene
    darkness = np.where(view.land, near.darkness, above.darkness)
    darkness = np.where(view.water, reflect(darkness, view.water, rng), darkness)
    darkness = np.clip(darkness + 0.02 * noise(WIDTH, HEIGHT, rng, 12, 2), 0, 1)
    outline = near.borders | (view.land & binary_dilation(~view.land))
    scene = Scene(
        darkness,
        np.where(view.land, near.angle, above.angle),
        np.where(view.land, near.spacing, above.spacing),
        outline | (above.borders & ~view.land),
    )
    meadow = np.argwhere(view.land & ~view.water & (view.depth > 0.36) & (view.depth < 1.0))
    return scene, outline, meadow[:, ::-1].astype(float)


def pine(plate: Plate, foot_x: float, foot_y: float, tall: float, rng: Rng) -> None:
    """A fir: tiers of drooping boughs in short strokes, heavier on the side away from the sun."""
    s = np.linspace(0, 1, 14)
    lean = rng.uniform(-0.03, 0.03) * tall
    spine = np.stack([foot_x + lean * s, foot_y - tall * s], -1)
    hem = 0.15 * tall, -0.06 * tall
    plate.burnish(np.array([(foot_x - hem[0], foot_y + hem[1]), spine[-1], (foot_x + hem[0], foot_y + hem[1])]))
    for climb in np.linspace(0.10, 1, int(tall / 6), endpoint=False):
        reach = 0.23 * tall * (1 - climb) ** 0.85 * rng.uniform(0.75, 1.15) + 1.2
        root = np.array([foot_x + lean * climb, foot_y - tall * climb])
        for side, density, weight in ((-1, 1.1, 0.50), (1, 1.9, 0.95)):
            bough = np.array([side, 0.42 * rng.uniform(0.7, 1.3)]) * reach
            for place in rng.uniform(0.05, 1.0, int(8 + reach * density)):
                length = (2.5 + 0.18 * reach) * rng.uniform(0.6, 1.2)
                angle = np.pi / 2 - side * (rng.uniform(0.2, 0.9) + 0.5 * s)
                needle = np.stack([np.cos(angle), np.sin(angle)], -1) * (s * length)[:, None]
                path = root + bough * place - (0, 1) + needle
                plate.line(path, np.full(14, weight * rng.uniform(0.7, 1.3)), rng)
    plate.line(spine, np.linspace(0.008 * tall + 0.5, 0.3, 14), rng)


def grass(plate: Plate, x: float, y: float, rng: Rng) -> None:
    """A tuft of blades."""
    s = np.linspace(0, 1, 10)
    for _ in range(rng.integers(4, 9)):
        length, bend = rng.uniform(5, 13), rng.normal(0, 0.5)
        blade = np.stack([x + rng.normal(0, 2.5) + bend * length * s**2, y - length * s], -1)
        plate.line(blade, 0.55 * (1 - s) + 0.15, rng)


def draw(rng: Rng) -> Floats:
    """Hatch the scene, cross-hatch where it is dark, add the foreground, and print."""
    scene, outline, meadow = compose(rng)
    plate = Plate(WIDTH, HEIGHT)
    for turn, threshold, gain in HATCHES:
        for path, half_width in LineGrower(scene, turn, threshold, gain).grow(rng):
            plate.line(path, half_width, rng)
    plate.contour(outline)
    for x, y, tall in PINES:
        pine(plate, x * WIDTH, y * HEIGHT, tall, rng)
    for x, y in meadow[rng.choice(len(meadow), 130)]:
        grass(plate, x, y, rng)
    return plate.print(rng)

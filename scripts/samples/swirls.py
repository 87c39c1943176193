"""A night sky after Van Gogh: thick brush strokes that follow a flow of vortices, over hills and a village."""

import numpy as np

from samples.brush import Painting, scatter, trace, vary
from samples.common import Floats, Rng, large, mix, noise, palette, pixel_grid, profile, ramp, sample, smoothstep

SIZE = (768, 608)
WIDTH, HEIGHT = large(SIZE)

NIGHT = palette("0b1740 142a6b 1d4596 2f6bb5 5b98cc 9cc6d8 dfe6cf")
GLOW = palette("fffbe0 fff0a0 f7d34a e9b531 c9b866 8fb6b0 4d86bb")
CRESCENT = palette("d98a1e")[0]
HILLS = palette("0a1230 13255a 1c3f7c 2b5f8f 3c7c8a 6c9c8c")
FIELDS = palette("0c1a33 163a4f 1f5a58 3f7d5a 7d9a4e c0b050")
CONTOUR = palette("0a1434")[0]
CYPRESS = palette("060a14 0b1620 12262a 1e3a2a 35502c 5f6a34")
WALLS = palette("25406f 3c5f8f 4f6b7a 6a7f86 2f4a5f")
ROOFS = palette("16203f 5a3a34 7a4a36 23305a")
WINDOWS = palette("ffd84a ffe98a")

# Places and sizes are in units of the picture's height, widths of strokes in pixels of the drawing.
VORTICES = ((0.56, 0.33, 0.17, 1), (0.83, 0.45, 0.11, -1), (0.18, 0.12, 0.10, -0.6))  # x, y, radius, sense
STARS = (  # x, y, radius of the disc, radius of the halo; the first is the moon
    (1.13, 0.14, 0.050, 0.150),
    (0.36, 0.11, 0.020, 0.075),
    (0.58, 0.07, 0.016, 0.060),
    (0.80, 0.13, 0.022, 0.085),
    (0.95, 0.31, 0.015, 0.058),
    (1.16, 0.43, 0.020, 0.075),
    (0.37, 0.50, 0.026, 0.090),
    (0.06, 0.33, 0.018, 0.070),
    (0.05, 0.07, 0.012, 0.050),
    (0.69, 0.54, 0.012, 0.045),
)
SKY_COATS = ((38, 210, 24), (24, 180, 19), (15, 120, 16))  # width, length, spacing of the strokes
LAND_COATS = ((26, 130, 18), (15, 80, 15))
LANDS = (  # a ridge and the colours below it, from far to near
    (((0, 0.66), (0.25, 0.69), (0.5, 0.67), (0.75, 0.62), (1.0, 0.55), (1.27, 0.49)), HILLS),
    (((0, 0.71), (0.3, 0.75), (0.6, 0.715), (0.85, 0.70), (1.05, 0.65), (1.27, 0.60)), HILLS),
    (((0, 0.80), (0.3, 0.84), (0.65, 0.86), (0.95, 0.83), (1.27, 0.79)), FIELDS),
)
CHURCH_X = 0.78
CYPRESSES = ((0.29, 0.040, 1.05, 0.47), (0.105, 0.035, 1.05, 0.60), (0.20, 0.075, 1.08, 0.10))  # x, girth, foot, tip


def sky_flow(x: Floats, y: Floats) -> Floats:
    """Unit flow vectors: a waving drift to the right, wound up by the vortices and circling round each star."""
    flow_x = np.ones_like(x)
    flow_y = 0.35 * np.sin(x * 5.5 + 0.6) + 0.15 * np.sin(x * 11 + y * 9)
    whirls = [(cx, cy, sense, 0.22, 3.2, 1.35 * radius, 2) for cx, cy, radius, sense in VORTICES]
    whirls += [(cx, cy, 1, 0.0, 6.0, 1.35 * halo, 4) for cx, cy, _, halo in STARS]
    for centre_x, centre_y, sense, inwards, strength, reach, steepness in whirls:
        dx, dy = x - centre_x, y - centre_y
        distance = np.hypot(dx, dy) + 1e-6
        pull = strength * np.exp(-((distance / reach) ** steepness)) / distance
        flow_x += pull * (-sense * dy - inwards * dx)
        flow_y += pull * (sense * dx - inwards * dy)
    flow = np.stack([flow_x, flow_y], -1)
    return flow / (np.linalg.norm(flow, axis=-1, keepdims=True) + 1e-6)


def flowing_bands(flow: Floats, rng: Rng) -> Floats:
    """Noise dragged along the flow, evenly spread over 0..1: neighbouring strokes get like tones and form bands."""
    coarse = 4
    small = flow[::coarse, ::coarse]
    height, width = small.shape[:2]
    seeds = np.stack(pixel_grid(width, height), -1).reshape(-1, 2)
    dragged = sample(noise(width, height, rng, 26, 3), trace(seeds, small, 90, 30)).mean(1)
    rank = np.argsort(np.argsort(dragged)) / dragged.size
    return rank.reshape(height, width).astype(np.float32).repeat(coarse, 0).repeat(coarse, 1)


def sky_colour(x: Floats, y: Floats, bands: Floats) -> Floats:
    """What the strokes of the sky aim at: bands, spiral arms, and rings of light round the stars."""
    tone = np.clip(0.08 + 0.72 * bands + 0.22 * smoothstep(0.15, 0.65, y), 0, 1)
    for centre_x, centre_y, radius, sense in VORTICES:
        dx, dy = x - centre_x, y - centre_y
        distance = np.hypot(dx, dy) / radius
        arms = 0.58 + 0.40 * np.sin(2 * sense * np.arctan2(dy, dx) - 6.4 * np.log(distance + 0.05))
        tone += 0.65 * np.exp(-((distance / 1.25) ** 4)) * (arms - tone)
    colour = ramp(NIGHT, tone)
    for centre_x, centre_y, radius, halo in STARS:
        distance = np.hypot(x - centre_x, y - centre_y)
        rings = (distance - radius) / (1.02 * halo) + 0.05 * (bands - 0.5)
        colour = mix(colour, ramp(GLOW, rings), smoothstep(1.35 * halo, 0.75 * halo, distance))
    return colour


def paint_sky(painting: Painting, rng: Rng) -> None:
    """Three coats, from broad to fine."""
    x, y = (axis / HEIGHT for axis in pixel_grid(WIDTH, HEIGHT))
    flow = sky_flow(x, y)
    colour = sky_colour(x, y, flowing_bands(flow, rng))
    for width, length, spacing in SKY_COATS:
        seeds = scatter(WIDTH, HEIGHT, spacing, rng)
        own = np.stack([sample(colour[..., channel], seeds) for channel in range(3)], -1)
        accents = 0.75 * vary(own, 0.22, rng) + 0.25 * np.roll(own, 1, 0)
        widths = width * rng.uniform(0.7, 1.2, len(seeds))
        painting.strokes(trace(seeds, flow, length), widths, vary(own, 0.1, rng), accents, rng)


def paint_stars(painting: Painting, rng: Rng) -> None:
    """Discs of short strokes wound inwards; the moon, which is the first, gets an orange crescent."""
    for number, (centre_x, centre_y, radius, _) in enumerate(STARS):
        inwards = np.linspace(1, 0, int(14 + radius * 900))
        reach = radius * np.sqrt(inwards)
        angle = 40 * inwards[:, None] + rng.uniform(0, 6) + np.linspace(0, 1.3, 12)
        arcs = np.stack([np.cos(angle), np.sin(angle)], -1) * reach[:, None, None]
        tone = 0.8 * reach / radius + 0.1 * rng.standard_normal(len(reach))
        colours = ramp(GLOW[:4], tone)
        widths = np.full(len(reach), 15.0 if number else 20.0)
        painting.strokes(
            (arcs + np.array([centre_x, centre_y])) * HEIGHT, widths, colours, vary(colours, 0.1, rng), rng
        )
    moon_x, moon_y, radius, _ = STARS[0]
    bend = np.linspace(-1.9, 1.9, 14)
    for inset in radius * np.linspace(0.2, 0.62, 4):
        arc = np.stack([moon_x - 0.32 * radius + inset * np.cos(bend), moon_y + 1.15 * inset * np.sin(bend)], -1)
        painting.dab(arc * HEIGHT, 15, CRESCENT, rng)


def paint_land(painting: Painting, rng: Rng) -> None:
    """Hills from far to near, in strokes along their slopes, each ridge drawn with a dark line."""
    for number, (ridge, colours) in enumerate(LANDS):
        for width, length, spacing in LAND_COATS:
            seeds = scatter(WIDTH, HEIGHT, spacing, rng) / HEIGHT
            depth = seeds[:, 1] - profile(ridge, seeds[:, 0])
            seeds, depth = seeds[depth > 0.008], depth[depth > 0.008]
            order = np.argsort(depth + 0.01 * rng.standard_normal(len(depth)))
            seeds, depth = seeds[order], depth[order]
            x = seeds[:, :1] + np.linspace(-0.5, 0.5, 15) * length / HEIGHT
            course = profile(ridge, x) * np.exp(-4 * depth)[:, None]
            course += 0.010 * np.sin(14 * x + 18 * depth[:, None] + 2 * number)
            y = seeds[:, 1:] + course - course[:, 7:8]
            furrows = 0.24 * np.sin(95 * depth + 5 * seeds[:, 0] + number)
            own = ramp(colours, 0.78 - 3.2 * depth + furrows + 0.07 * rng.standard_normal(len(depth)))
            widths = width * rng.uniform(0.7, 1.2, len(seeds))
            painting.strokes(np.stack([x, y], -1) * HEIGHT, widths, vary(own, 0.1, rng), vary(own, 0.17, rng), rng)
        for start in np.linspace(-0.02, WIDTH / HEIGHT - 0.12, 54):
            x = np.linspace(start, start + 0.156, 8)
            painting.dab(np.stack([x, profile(ridge, x) + 0.003], -1) * HEIGHT, 11, CONTOUR, rng)


def paint_village(painting: Painting, rng: Rng) -> None:
    """A huddle of houses in the valley, and a church."""
    for number, base in enumerate(np.sort(rng.uniform(0.765, 0.835, 15))):
        paint_house(painting, rng.uniform(0.48, 1.1), base, number % 4 != 1, rng)
    for shift in np.linspace(-0.012, 0.012, 4):
        painting.dab(np.array([(CHURCH_X + shift, 0.80), (CHURCH_X + shift, 0.735)]) * HEIGHT, 13, WALLS[1], rng)
    for shift in np.linspace(-0.012, 0.012, 5):
        spire = [(CHURCH_X + shift, 0.745), (CHURCH_X + shift / 2, 0.70), (CHURCH_X, 0.635)]
        painting.dab(np.array(spire) * HEIGHT, 9, ROOFS[0], rng)


def paint_house(painting: Painting, left: float, base: float, inhabited: bool, rng: Rng) -> None:
    """A gable with a long side to its right, in some fifteen strokes."""
    width, height = rng.uniform(0.026, 0.032), rng.uniform(0.024, 0.032)
    wall, roof = WALLS[rng.integers(len(WALLS))], ROOFS[rng.integers(len(ROOFS))]
    middle, right, eaves = left + width / 2, left + width, base - height
    ridge, length = eaves - 0.8 * width, rng.uniform(1.0, 1.6) * width

    def dab(x0: float, y0: float, x1: float, y1: float, thickness: float, colour: Floats) -> None:
        painting.dab(np.array([(x0, y0), (x1, y1)]) * HEIGHT, thickness, colour, rng)

    for level in (0.25, 0.75):
        dab(right, base - height * level, right + length, base - height * level, 15, 0.7 * wall)
    for shift in np.linspace(0, length, 6):
        dab(middle + shift, ridge, right + shift + 0.003, eaves + 0.003, 12, roof)
    for share in np.linspace(0.1, 0.9, 4):
        gable = eaves - 0.7 * width * (1 - abs(2 * share - 1))
        dab(left + width * share, base + 0.002, left + width * share, gable, 10, 1.25 * wall)
    dab(left - 0.004, eaves + 0.004, middle, ridge, 8, 0.6 * roof)
    dab(middle, ridge, right + 0.004, eaves + 0.004, 8, 0.6 * roof)
    if inhabited:
        dab(middle, base - 0.2 * height, middle, base - 0.85 * height, 11, WINDOWS[rng.integers(len(WINDOWS))])


def paint_cypress(painting: Painting, centre: float, girth: float, foot: float, tip: float, rng: Rng) -> None:
    """A dark flame of a tree in long strokes that writhe upwards, laid from the tip down."""
    count = int(3500 * girth)
    rise = np.sort(rng.uniform(-0.05, 0.93, count))[::-1]
    side = rng.uniform(-1, 1, (count, 1))
    climb = rise[:, None] + np.linspace(0, 0.19, 16) * rng.uniform(0.6, 1.2, (count, 1))
    tongues = 1 + 0.20 * np.sin(26 * climb + 2.5 * np.sign(side) + 30 * centre)
    outline = girth * np.clip(1 - climb, 0, None) ** 0.62 * tongues
    writhe = 0.016 * np.sin(11 * climb + 40 * centre) + 0.006 * np.sin(29 * climb + 3 * side)
    paths = np.stack([centre + side * outline + writhe, foot + (tip - foot) * climb], -1) * HEIGHT
    tone = 0.30 + 0.25 * np.sin(9 * side[:, 0] + 5 * rise) + 0.16 * rng.standard_normal(count)
    accents = vary(ramp(CYPRESS, tone + 0.3), 0.12, rng)
    painting.strokes(paths, rng.uniform(11, 20, count), ramp(CYPRESS, tone), accents, rng)


def draw(rng: Rng) -> Floats:
    """Paint back to front, then let light fall on the relief of the paint."""
    painting = Painting(WIDTH, HEIGHT, NIGHT[1])
    paint_sky(painting, rng)
    paint_stars(painting, rng)
    paint_land(painting, rng)
    paint_village(painting, rng)
    for cypress in CYPRESSES:
        paint_cypress(painting, *cypress, rng)
    return painting.lit()

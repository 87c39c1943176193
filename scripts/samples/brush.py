"""Oil painting: bristly strokes of thick, badly mixed paint along paths, and the light on their relief."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from samples.common import Floats, Rng, normals, relief_light, sample, smoothstep, spline

# Pixels are hit by dropping points on them; so many points to the pixel leave hardly a hole.
OVERSAMPLING = 1.25
BATCH = 24  # strokes at a time: their arrays stay in the cache


class Painting:
    """Wet paint: its colour, and how thickly it lies."""

    def __init__(self, width: int, height: int, ground: Floats) -> None:
        self.colour = np.full((height, width, 3), ground, np.float32)
        self.thickness = np.zeros((height, width), np.float32)

    def strokes(self, paths: Floats, widths: Floats, colours: Floats, accents: Floats, rng: Rng) -> None:
        """Lay brush strokes one over the other; ``paths`` has the shape (strokes, points, 2).

        A brush carries two badly mixed colours, so that its bristles leave streaks of ``colours`` and ``accents``;
        it pushes paint to its flanks and runs dry towards its end.
        """
        for first in range(0, len(paths), BATCH):
            part = slice(first, first + BATCH)
            path, width, colour, accent = (each[part].astype(np.float32) for each in (paths, widths, colours, accents))
            self._lay(path, width, colour, accent, rng)

    def dab(self, points: ArrayLike, width: float, colour: Floats, rng: Rng) -> None:
        """A single stroke along a smooth curve."""
        path, tint = spline(points, 14)[None], colour[None]
        self.strokes(path, np.array([width]), tint, vary(tint, 0.15, rng), rng)

    def _lay(self, paths: Floats, widths: Floats, colours: Floats, accents: Floats, rng: Rng) -> None:
        count = len(paths)
        longest = np.linalg.norm(np.diff(paths, axis=1), axis=-1).sum(1).max()
        steps, bristles = (int(OVERSAMPLING * extent) + 2 for extent in (longest, widths.max()))
        along = np.linspace(0, 1, steps, dtype=np.float32)
        across = np.linspace(-1, 1, bristles, dtype=np.float32)

        load, streaks = (_smooth_noise(count, bristles, blur, rng)[:, None, :] for blur in (1.2, 2.2))
        drift = _smooth_noise(count, steps, steps / 8, rng)[..., None]
        dryness = -2.6 + 3.4 * smoothstep(0.55, 1.0, along)[:, None] + 0.5 * np.abs(across) ** 6
        touches = load + 0.3 * drift > dryness

        spine = _densify(paths, steps)
        taper = smoothstep(0, 0.08, along) ** 0.5 * smoothstep(1.0, 0.72, along) ** 0.35
        half = widths[:, None] / 2 * (0.25 + 0.75 * taper)
        flank = gaussian_filter1d(normals(spine), 3, axis=1) * half[..., None]
        points = spine[:, :, None] + flank[:, :, None] * across[:, None] + 0.5
        column, row = points[..., 0].astype(np.int32), points[..., 1].astype(np.int32)
        height, width = self.thickness.shape
        touches &= (column >= 0) & (column < width) & (row >= 0) & (row < height)

        hits = np.flatnonzero(touches)
        pixel = (row * width + column).ravel()[hits]  # where strokes overlap, the assignments below keep the last one
        stroke, step = hits // (steps * bristles), hits // bristles % steps
        stroke_and_bristle = stroke * bristles + hits % bristles
        blend = smoothstep(-1.2, 2.2, streaks + 0.5 * drift).ravel()[hits]
        shade = (1 + 0.05 * load).ravel()[stroke_and_bristle]
        paint = colours[stroke] + (accents - colours)[stroke] * blend[:, None]
        self.colour.reshape(-1, 3)[pixel] = paint * shade[:, None]
        ridges = (0.9 + 0.35 * load + 0.7 * np.abs(across) ** 4).ravel()[stroke_and_bristle]
        self.thickness.reshape(-1)[pixel] = ridges + 0.4 * smoothstep(0.6, 0.95, along)[step]

    def lit(self) -> Floats:
        """The painting under a lamp at the upper left: relief, darker hollows, gloss on the ridges."""
        light = relief_light(1.5 * self.thickness, 0.42, 1.1)
        hollows = np.clip(gaussian_filter(self.thickness, 6) - self.thickness, 0, None)
        gloss = 0.9 * np.clip(light - 1.24, 0, None)
        return self.colour * (light - 0.05 * hollows)[..., None] + gloss[..., None]


def _densify(paths: Floats, steps: int) -> Floats:
    """The same paths with more points."""
    position = np.linspace(0, paths.shape[1] - 1, steps, dtype=np.float32)
    index = np.minimum(position.astype(int), paths.shape[1] - 2)
    fraction = (position - index)[:, None].astype(np.float32)
    return paths[:, index] * (1 - fraction) + paths[:, index + 1] * fraction


def _smooth_noise(count: int, length: int, blur: float, rng: Rng) -> Floats:
    """Rows of noise of deviation 1."""
    rows = gaussian_filter1d(rng.standard_normal((count, length), np.float32), blur, axis=1)
    return rows / (rows.std() + 1e-6)


def vary(colours: Floats, amount: float, rng: Rng) -> Floats:
    """Vary colours, more in brightness than in hue."""
    brightness = 1 + amount * rng.standard_normal((len(colours), 1))
    return np.clip(colours * brightness + 0.4 * amount * rng.standard_normal(colours.shape), 0, 1)


def scatter(width: int, height: int, spacing: float, rng: Rng) -> Floats:
    """Points about ``spacing`` apart all over the canvas and a little beyond, in random order."""
    x, y = np.meshgrid(*(np.arange(-spacing, extent + spacing, spacing) for extent in (width, height)))
    points = np.stack([x, y], -1).reshape(-1, 2)
    return rng.permutation(points + rng.uniform(-0.5, 0.5, points.shape) * spacing)


def trace(seeds: Floats, flow: Floats, length: float, points: int = 16) -> Floats:
    """Paths of the given length along a field of unit vectors; the seeds become their middles."""
    step = length / (points - 1)

    def walk(sense: float) -> list[Floats]:
        position, visited = seeds, []
        for _ in range(points // 2):
            heading = np.stack([sample(flow[..., axis], position) for axis in (0, 1)], -1)
            position = position + sense * step * heading
            visited.append(position)
        return visited

    return np.stack([*walk(-1)[::-1], seeds, *walk(1)], 1)

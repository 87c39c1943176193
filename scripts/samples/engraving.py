"""Line engraving: evenly spaced lines that swell with darkness, grown through maps of the scene.

The maps are as large as the saved picture; all lengths are in its pixels.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from samples.common import SCALE, Floats, Mask, Rng, mix, noise, palette, paper_fibre, relief_light, ribbon

FINE = 4  # the plate is this much larger than the saved picture
GRID = 2  # cells per pixel of the map that tells where lines lie already
MARGIN = 20  # cells around that map, so that discs at its border need no clipping
PAPER, INK = palette("f0e3c8 2a1c14")

Line = tuple[Floats, Floats]  # a path and its half width along it


@dataclass
class Scene:
    """What the engraver knows of each pixel."""

    darkness: Floats  # 0..1
    angle: Floats  # of the lines; opposite directions are the same
    spacing: Floats  # of the lines
    borders: Mask  # no line crosses these


class LineGrower:
    """Covers the dark parts of a scene with evenly spaced lines, after Jobard and Lefer.

    The lines run at the angle ``turn`` to the scene's own direction and avoid what is lighter than ``threshold``;
    ``gain`` tells how fast they swell beyond it.
    """

    def __init__(self, scene: Scene, turn: float, threshold: float, gain: float) -> None:
        self.scene, self.threshold, self.gain = scene, threshold, gain
        self.heading_x, self.heading_y = np.cos(scene.angle + turn), np.sin(scene.angle + turn)
        self.open = (scene.darkness > threshold) & ~scene.borders
        height, width = self.open.shape
        self.taken = np.zeros((height * GRID + 2 * MARGIN, width * GRID + 2 * MARGIN), bool)

    def grow(self, rng: Rng) -> list[Line]:
        """Grow lines from random seeds; each accepted line proposes neighbours on both of its sides."""
        rows, columns = np.nonzero(self.open)
        some = rng.permutation(len(rows))[::6]
        waiting = deque(zip(columns[some] + 0.5, rows[some] + 0.5, strict=True))
        lines = []
        while waiting:
            seed, limit = waiting.popleft(), int(rng.uniform(20, 150))
            path = np.array(self._walk(seed, -1, limit)[::-1] + self._walk(seed, 1, limit)[1:])
            if len(path) < 6:
                continue
            column, row = path.astype(int).T
            spacing = self.scene.spacing[row, column]
            self._occupy(path, spacing)
            excess = gaussian_filter(self.scene.darkness[row, column], 1.5) - self.threshold
            lines.append((path, spacing * np.clip(0.07 + self.gain * excess, 0.07, 0.36)))
            aside = np.stack([-self.heading_y[row, column], self.heading_x[row, column]], -1) * spacing[:, None]
            waiting.extendleft(map(tuple, np.concatenate([(path + aside)[::8], (path - aside)[::8]])))
        return lines

    def _walk(self, seed: tuple[float, float], sense: float, limit: int) -> list[tuple[float, float]]:
        """Follow the heading pixel by pixel until something is in the way."""
        height, width = self.open.shape
        (x, y), last_x, last_y = seed, 0.0, 0.0
        path: list[tuple[float, float]] = []
        for _ in range(limit):
            column, row = int(x), int(y)
            if not (0 <= x < width and 0 <= y < height) or not self.open[row, column]:
                break
            if self.taken[int(y * GRID) + MARGIN, int(x * GRID) + MARGIN]:
                break
            dx, dy = sense * self.heading_x[row, column], sense * self.heading_y[row, column]
            along = dx * last_x + dy * last_y
            if path and abs(along) < 0.3:  # a sharp corner
                break
            if along < 0:  # the direction field has no sign: keep going the same way
                dx, dy = -dx, -dy
            path.append((x, y))
            x, y, last_x, last_y = x + dx, y + dy, dx, dy
        return path

    def _occupy(self, path: Floats, spacing: Floats) -> None:
        """Keep other lines off the neighbourhood of a path."""
        centres = (path * GRID).astype(int) + MARGIN
        for (x, y), radius in zip(centres[::2], (0.8 * GRID * spacing[::2]).astype(int), strict=True):
            offset = np.arange(-radius, radius + 1)
            disc = offset[:, None] ** 2 + offset**2 <= radius**2
            self.taken[y - radius : y + radius + 1, x - radius : x + radius + 1] |= disc


class Plate:
    """The engraved plate."""

    def __init__(self, width: int, height: int) -> None:
        self.grooves = Image.new("L", (width * FINE, height * FINE), 0)
        self.pen = ImageDraw.Draw(self.grooves)

    def _area(self, outline: Floats, depth: int) -> None:
        self.pen.polygon([tuple(point) for point in (outline * FINE).tolist()], fill=depth)

    def burnish(self, outline: Floats) -> None:
        """Remove the lines inside a polygon."""
        self._area(outline, 0)

    def line(self, path: Floats, half_width: Floats, rng: Rng) -> None:
        """Cut a line that tapers at its ends and trembles a little."""
        index = np.arange(len(path))
        taper = np.clip(np.minimum(index, index[::-1]) / 5, 0.25, 1)
        tremble = 0.35 * gaussian_filter(rng.standard_normal(path.shape), (3, 0), mode="nearest")
        self._area(ribbon(path + tremble, half_width * taper), 255)

    def contour(self, mask: Mask) -> None:
        """Cut smooth lines along the pixels of ``mask``."""
        lines = zoom(gaussian_filter(mask.astype(np.float32), 0.6), FINE, order=1) > 0.34
        self.grooves.paste(255, mask=Image.fromarray(lines))

    def print(self, rng: Rng) -> Floats:
        """Print in black-brown ink on warm, slightly stained paper."""
        width, height = (side * SCALE // FINE for side in self.grooves.size)
        ink = np.asarray(self.grooves.resize((width, height), Image.Resampling.BOX), np.float32) / 255
        fibre, stain = paper_fibre(width, height, rng, 16), noise(width, height, rng, 500, 3)
        paper = PAPER * (1 + 0.014 * fibre + 0.018 * stain)[..., None]
        cover = np.clip(gaussian_filter(ink, 0.6) * (0.93 + 0.05 * fibre), 0, 1)
        return mix(paper, INK, cover) * relief_light(fibre, 0.03)[..., None]

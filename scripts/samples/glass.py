"""Stained glass: cells of streaky glass with light behind them, held by lead.

Shapes are masks over the drawing; lengths are in units of the window's width.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum, rotate
from scipy.spatial import KDTree

from samples.common import Floats, Mask, Rng, mix, noise, palette, relief_light, smoothstep

Labels = NDArray[np.integer]
Tints = list[tuple[Floats, Floats]]  # the two colours that streak into each other, for each cell

LEAD = palette("14141a")[0]


class Window:
    """Regions of glass, bordered by thick lead and cut by thin lead into cells."""

    def __init__(self, width: int, height: int) -> None:
        self.region = np.zeros((height, width), np.int32)
        self.cell = np.zeros((height, width), np.int32)
        self.tints: Tints = []

    def cut(self, mask: Mask, labels: Labels, tints: Tints) -> None:
        """Make ``mask`` a region, whatever was there before; ``labels``, one per pixel of it, tell its cells."""
        self.region[mask] = self.region.max() + 1
        self.cell[mask] = len(self.tints) + labels
        self.tints.extend(tints)

    def cut_voronoi(self, mask: Mask, size: float, colours: Floats, rng: Rng, flat: float = 1.0) -> None:
        """Make a region of relaxed Voronoi cells about ``size`` wide and ``flat`` times wider than high."""
        width = mask.shape[1]
        rows, columns = np.nonzero(mask)
        places = np.stack([columns, rows * flat], -1) / width
        seeds = rng.choice(places, max(1, int(len(places) * flat / (width * size) ** 2)), replace=False)
        seeds = relax(seeds, places[:: max(1, len(places) // 20000)])
        pairs = colours[rng.integers(len(colours), size=(len(seeds), 2))]
        self.cut(mask, KDTree(seeds).query(places)[1], [(first, second) for first, second in pairs])

    def lit(self, light: Floats, rng: Rng) -> Floats:
        """The window against the ``light`` behind it."""
        height, width = self.cell.shape
        to_lead = distance_transform_edt(~edges(self.cell)).astype(np.float32)
        to_contour = distance_transform_edt(~edges(self.region)).astype(np.float32)
        swell = noise(width, height, rng, 90, 2)
        came = np.maximum(1 - (to_lead / (3.1 + 0.6 * swell)) ** 2, 1 - (to_contour / (4.6 + 0.7 * swell)) ** 2)

        reach = maximum(to_lead, self.cell, np.arange(len(self.tints)))[self.cell]
        depth = to_lead / np.maximum(reach, 1)  # 0 at the lead, 1 in the middle of a cell
        hammered = noise(width, height, rng, 22, 3)
        shade = 0.86 + 0.28 * rng.random(len(self.tints), np.float32)[self.cell]
        brightness = light * shade * (0.62 + 0.55 * smoothstep(0, 0.75, depth)) * relief_light(hammered, 0.55, 1.5)
        sparkle = 0.8 * depth * np.clip(relief_light(hammered, 1.0, 1.5) - 1.28, 0, None)
        glass = self._streaks(rng) * brightness[..., None] + sparkle[..., None]

        round_lead = 5 * np.sqrt(np.clip(came, 0, None)) + 0.15 * noise(width, height, rng, 6, 2)
        metal = LEAD * relief_light(round_lead, 1.6, 0.8)[..., None]
        picture = mix(glass, metal, smoothstep(0, 0.25, came))
        glow = np.stack([gaussian_filter(channel, 14) for channel in np.moveaxis(np.clip(picture, 0, 1.3) ** 2, -1, 0)])
        return 0.97 * picture + 0.16 * np.moveaxis(glow, 0, -1)

    def _streaks(self, rng: Rng) -> Floats:
        """The colour of the glass, whose streaks change direction from cell to cell."""
        height, width = self.cell.shape
        side = int(np.hypot(width, height))
        top, left = (side - height) // 2, (side - width) // 2
        streaks = np.zeros((height, width), np.float32)
        sheets = 5
        for number in range(sheets):
            sheet = noise(side, side, rng, 70, 5, stretch=(2.2, 0.5))
            sheet = rotate(sheet, rng.uniform(0, 180), reshape=False, order=1)[top : top + height, left : left + width]
            streaks = np.where(self.cell % sheets == number, sheet, streaks)
        first, second = np.moveaxis(np.array(self.tints, np.float32)[self.cell], -2, 0)
        return mix(first, second, smoothstep(-1.3, 1.7, streaks)) * (1 + 0.13 * streaks[..., None])


def relax(seeds: Floats, places: Floats, rounds: int = 6) -> Floats:
    """Lloyd's algorithm: move each seed to the middle of the places nearest to it."""
    for _ in range(rounds):
        nearest = KDTree(seeds).query(places)[1]
        weight = np.bincount(nearest, minlength=len(seeds))
        sums = np.stack([np.bincount(nearest, axis, len(seeds)) for axis in places.T], -1)
        seeds = np.where(weight[:, None] > 0, sums / np.maximum(weight, 1)[:, None], seeds)
    return seeds


def edges(labels: Labels) -> Mask:
    """Pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge

"""Watercolour and ink on a sheet of woven paper, drawn by a slightly unsteady hand.

Lengths are in units of the sheet's side; widths of lines are in pixels of the saved picture.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from samples.common import (
    SCALE,
    Floats,
    Mask,
    Rng,
    noise,
    palette,
    paper_fibre,
    polygon_mask,
    relief_light,
    respace,
    ribbon,
    sample,
)

PAPER, INK = palette("f4ead6 1d1a20")
TREMOR, PEN_TREMOR = 2.2, 1.1  # of the brush and of the pen, in pixels of the drawing

Point = tuple[float, float]


def circle(x: float, y: float, radius: float, start: float = 0, end: float = 360) -> Floats:
    """Points on an arc; angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, end, 160))
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], -1)


def sector(x: float, y: float, outer: float, inner: float, start: float, end: float) -> Floats:
    """A piece of a ring."""
    return np.concatenate([circle(x, y, outer, start, end), circle(x, y, inner, end, start)])


def polygon(*corners: Point) -> Floats:
    """A closed outline with enough points to wobble."""
    return respace(np.array([*corners, corners[0]], float), 200)


def segment(x0: float, y0: float, x1: float, y1: float) -> Floats:
    """A straight line with enough points to tremble."""
    return np.linspace((x0, y0), (x1, y1), 40)


class Sheet:
    """A square sheet that takes transparent washes and opaque ink."""

    def __init__(self, side: int, rng: Rng) -> None:
        self.side = side
        self.weave = paper_fibre(side, side, rng, 9)
        self.bloom = noise(side, side, rng, 150, 5)
        self.grain = noise(side, side, rng, 7, 3) + 0.7 * self.weave
        self.unsteadiness = [noise(side, side, rng, 120, 3) for _ in range(2)]
        tone = 1 + 0.018 * noise(side, side, rng, 400, 3) + 0.008 * self.weave
        self.colour = PAPER * tone[..., None]

    def lift(self, outline: Floats, amount: float) -> None:
        """Dab earlier washes off the paper, so that the next ones keep their own colour."""
        window, mask = self._stencil(self._by_hand(outline, TREMOR))
        self.colour[window] += amount * mask[..., None] * (PAPER - self.colour[window])

    def wash(
        self,
        outline: Floats,
        colour: Floats,
        strength: float = 0.9,
        fade: float = 0.0,
        angle: float = 90,
        hole: Floats | None = None,
    ) -> None:
        """Transparent colour, which gathers at the rim and in the hollows of the paper.

        ``fade`` thins it towards ``angle``; the ``hole``, if any, stays dry.
        """
        window, mask = self._stencil(self._by_hand(outline, TREMOR))
        if hole is not None:
            corner = window[1].start, window[0].start
            mask &= ~polygon_mask(mask.shape[1], mask.shape[0], self._by_hand(hole, TREMOR) - corner)
        if not mask.any():
            return
        rim = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        slope = np.cos(np.radians(angle)) * x + np.sin(np.radians(angle)) * y
        along = (slope - slope[mask].min()) / (np.ptp(slope[mask]) + 1)
        density = 0.86 + 0.10 * self.bloom[window] + 0.042 * self.grain[window] + 0.22 * np.exp(-rim / 4) - fade * along
        density = np.clip(strength * density, 0, 1.15) * np.clip(rim / 1.5, 0, 1)
        self.colour[window] *= np.clip(1 - density[..., None] * (1 - colour), 0.03, 1)

    def ink(self, path: Floats, width: float) -> None:
        """A line that presses harder here and there."""
        points = self._by_hand(path, PEN_TREMOR)
        pressure = 1 + 0.14 * sample(self.bloom, points * 3 % self.side)
        window, mask = self._stencil(ribbon(points, width * SCALE / 2 * pressure))
        cover = gaussian_filter(mask.astype(np.float32), 0.5) * np.clip(0.9 + 0.05 * self.grain[window], 0, 1)
        self.colour[window] += cover[..., None] * (INK - self.colour[window])

    def lit(self) -> Floats:
        """The sheet in slanting light."""
        return self.colour * relief_light(self.weave, 0.05)[..., None]

    def _by_hand(self, outline: Floats, tremor: float) -> Floats:
        """The outline in pixels, as an unsteady hand follows it."""
        points = outline * self.side
        return points + tremor * np.stack([sample(field, points) for field in self.unsteadiness], -1)

    def _stencil(self, outline: Floats) -> tuple[tuple[slice, slice], Mask]:
        """The part of the sheet that a polygon covers, and its mask there."""
        left, top = np.clip(np.floor(outline.min(0)).astype(int) - 2, 0, self.side - 1).tolist()
        right, bottom = np.clip(np.ceil(outline.max(0)).astype(int) + 3, (left + 1, top + 1), self.side).tolist()
        return (slice(top, bottom), slice(left, right)), polygon_mask(right - left, bottom - top, outline - (left, top))

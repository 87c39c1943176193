"""What the pictures share: colour ramps, noise, curves, polygon masks, light on a relief.

All pictures are drawn ``SCALE`` times larger than they are saved and then averaged down, so that shapes may be
rasterised without antialiasing. Images are float32 arrays of shape (height, width, 3) with values in [0, 1];
points are (x, y) pairs in pixels of the large drawing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy.interpolate import PchipInterpolator, make_interp_spline
from scipy.ndimage import gaussian_filter, map_coordinates

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]
Rng = np.random.Generator

SCALE = 2


def large(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the drawing for a picture saved at ``size``."""
    return size[0] * SCALE, size[1] * SCALE


def pixel_grid(width: int, height: int) -> tuple[Floats, Floats]:
    """The x and the y coordinate of every pixel."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x, y


def palette(hex_codes: str) -> Floats:
    """Colours written as ``"102040 f0e0c0"``, as an array of shape (n, 3)."""
    return np.array([[*bytes.fromhex(code)] for code in hex_codes.split()], np.float32) / 255


def ramp(colours: Floats, position: Floats) -> Floats:
    """Colours along a smooth gradient through ``colours``, whose ends lie at positions 0 and 1."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(position, stops, channel) for channel in colours.T], -1).astype(np.float32)


def mix(below: Floats, above: Floats, amount: Floats) -> Floats:
    """Blend two images; ``amount`` lacks the colour axis."""
    return below + (above - below) * amount[..., None]


def smoothstep(low: float, high: float, value: Floats) -> Floats:
    """0 below ``low``, 1 above ``high``, and an S-shaped passage between them (``low`` may exceed ``high``)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def noise(
    width: int, height: int, rng: Rng, scale: float, octaves: int = 4, stretch: tuple[float, float] = (1, 1)
) -> Floats:
    """Cloudy noise of mean 0 and deviation 1, whose largest features measure ``scale`` x ``stretch`` pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell_x, cell_y = (max(scale * s / 2**octave, 1) for s in stretch)
        columns, rows = int(width / cell_x) + 3, int(height / cell_y) + 3
        lattice = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
        window = (1, 1, 1 + width / cell_x, 1 + height / cell_y)
        total += np.asarray(lattice.resize((width, height), Image.Resampling.BICUBIC, box=window)) / 2**octave
    return (total - total.mean()) / total.std()


def paper_fibre(width: int, height: int, rng: Rng, scale: float) -> Floats:
    """The relief of paper or canvas: threads that cross."""
    return noise(width, height, rng, scale, 3, (3, 0.6)) + noise(width, height, rng, scale, 3, (0.6, 3))


def sample(field: Floats, points: Floats) -> Floats:
    """Values of ``field`` at ``points``, interpolated between pixels and held constant beyond the border."""
    return map_coordinates(field, [points[..., 1], points[..., 0]], order=1, mode="nearest")


def spline(points: ArrayLike, count: int) -> Floats:
    """``count`` points, equally far apart, on a smooth curve through ``points``."""
    knots = np.asarray(points, float)
    along = np.r_[0, np.cumsum(np.sqrt(np.hypot(*np.diff(knots, axis=0).T)))]  # centripetal: no overshooting
    curve = make_interp_spline(along, knots, k=min(3, len(knots) - 1))(np.linspace(0, along[-1], 8 * count))
    return respace(curve, count)


def respace(curve: Floats, count: int) -> Floats:
    """``count`` points, equally far apart, on the polyline ``curve``."""
    length = np.r_[0, np.cumsum(np.hypot(*np.diff(curve, axis=0).T))]
    wanted = np.linspace(0, length[-1], count)
    return np.stack([np.interp(wanted, length, axis) for axis in curve.T], -1)


def profile(points: Sequence[tuple[float, float]], x: Floats) -> Floats:
    """A smooth function of ``x`` through ``points``, free of overshoot."""
    knots = np.array(points)
    return PchipInterpolator(knots[:, 0], knots[:, 1])(np.clip(x, knots[0, 0], knots[-1, 0]))


def normals(path: Floats) -> Floats:
    """Unit vectors across a path, or across each path of a stack."""
    tangent = np.gradient(path, axis=-2)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
    return np.stack([-tangent[..., 1], tangent[..., 0]], -1)


def ribbon(path: Floats, half_width: ArrayLike) -> Floats:
    """The outline of a line along ``path`` whose half width may vary."""
    offset = normals(path) * np.broadcast_to(half_width, len(path))[:, None]
    return np.concatenate([path + offset, (path - offset)[::-1]])


def polygon_mask(width: int, height: int, *outlines: Floats) -> Mask:
    """The pixels inside any of the polygons."""
    stencil = Image.new("1", (width, height))
    pen = ImageDraw.Draw(stencil)
    for outline in outlines:
        pen.polygon([tuple(point) for point in np.asarray(outline).tolist()], fill=1)
    return np.array(stencil)


def relief_light(height: Floats, strength: float, blur: float = 1.0) -> Floats:
    """Brightness of a relief lit from the upper left: about 1 on level ground."""
    rise_y, rise_x = np.gradient(gaussian_filter(height, blur))
    return 1 + strength * np.tanh(rise_x * 0.8 + rise_y)


def shrink(image: Floats) -> Image.Image:
    """Average the large drawing down to the size at which it is saved."""
    height, width = image.shape[0] // SCALE, image.shape[1] // SCALE
    small = image[: height * SCALE, : width * SCALE].reshape(height, SCALE, width, SCALE, 3).mean((1, 3))
    return Image.fromarray((np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8))

"""The pictures inside the page: small JPEGs as data URIs, as large as a budget for all of them allows."""

import base64
import functools
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from nst.errors import UserError
from nst.images import decoding

BUDGET = 12_000_000  # bytes of data URIs by default
FULL_SIDE = 640
SPRITE_LEVELS = (  # (pixels of a picture's long side, pictures at most), from the best to the poorest
    *((side, 24) for side in (256, 224, 192, 160, 144, 128, 112, 96, 80, 64)),
    *((64, 6), (48, 4), (48, 2), (32, 1)),
)
FULL_LEVELS = (FULL_SIDE, 512, 448, 384, 320, 288, 256, 224, 192, 160, 128, 96, 64)
THUMB_LEVELS = (256, 192, 160, 128, 96, 64, 32)
THUMBS_SHARE = 0.1  # of the budget at most for the input images,
FULL_SHARE = 0.45  # and of what is left for the large pictures, until the small ones have what they need
SAMPLE = 10  # pictures that stand for all when a level is chosen
MARGIN = 1.05
QUALITIES = {"sprite": 78, "full": 84, "thumb": 80}
MOST_PIXELS = 8192**2  # of a picture: as large as a result may be
WHITE = (255, 255, 255)  # behind transparent pixels
BLOCK = 16  # pixels: JPEG's colour blocks; pictures side by side do not run into each other at multiples of it


@dataclass(frozen=True)
class Sprite:
    """A run's small pictures side by side in one JPEG."""

    src: str  # data URI
    steps: list[int]  # of the pictures, from left to right
    width: int  # of one picture, in pixels
    height: int


Item = TypeVar("Item", list[Path], Mapping[int, Path])
Level = TypeVar("Level", int, tuple[int, int])
Encoded = TypeVar("Encoded", str, Sprite)


@dataclass
class Pictures:
    """Everything that is drawn in the page."""

    sprites: list[Sprite | None]  # one for each run, None where there are no previews
    # data URI of each run's final picture, or of its last preview; None where there is neither
    finals: list[str | None]
    # (width, height) in pixels of each run's full picture, None where there is none
    sizes: list[tuple[int, int] | None]
    thumbs: list[str | None]  # data URI of each input image
    notes: list[str] = field(default_factory=list)  # what had no room, for people
    broken: set[Path] = field(default_factory=set)  # files that cannot be read as pictures


def draw(
    finals: Sequence[Path | None],
    previews: Sequence[Mapping[int, Path]],
    inputs: Sequence[Path | None],
    budget: int = BUDGET,
) -> Pictures:
    """Draw the pictures of a report, in one size for all runs, so that they compare.

    ``finals`` is the full picture of each run, ``previews`` step to small picture. The budget is in bytes of all data
    URIs together, which are never more; 0 draws nothing.
    """
    broken: set[Path] = set()
    sizes = [_size(path, broken) if path else None for path in finals]
    if budget <= 0:
        return Pictures([None] * len(finals), [None] * len(finals), sizes, [None] * len(inputs), broken=broken)
    # The files that each picture is made of: of a final one the first that can be read.
    of_inputs = [[path] if path else [] for path in inputs]
    of_finals = [[*([path] if path else []), *list(p.values())[-1:]] for path, p in zip(finals, previews, strict=True)]
    thumb = functools.partial(_still, quality=QUALITIES["thumb"], broken=broken)
    final = functools.partial(_still, quality=QUALITIES["full"], broken=broken)
    sprite = functools.partial(_sprite, broken=broken)

    thumbs = _fill(of_inputs, THUMB_LEVELS, thumb, int(budget * THUMBS_SHARE))
    rest = budget - _bytes(thumbs)
    _, reserved = _level(of_finals, FULL_LEVELS, final, int(rest * FULL_SHARE))
    sprites = _fill(previews, SPRITE_LEVELS, sprite, rest - reserved)
    pictures = _fill(of_finals, FULL_LEVELS, final, rest - _bytes(sprites))
    files: dict[str, tuple[Sequence[Sequence[Path]], Sequence[object]]] = {
        "the input images": (of_inputs, thumbs),
        "the steps": ([list(steps.values()) for steps in previews], sprites),
        "the final pictures": (of_finals, pictures),
    }
    notes = [
        f"The budget leaves no room for {what} in the page; raise it with --budget."
        for what, (paths, made) in files.items()
        if not any(made) and not broken.issuperset(itertools.chain(*paths))
    ]
    return Pictures(sprites, pictures, sizes, thumbs, notes, broken=broken)


def _fill(
    items: Sequence[Item], levels: Sequence[Level], encode: Callable[[Item, Level], Encoded | None], budget: int
) -> list[Encoded | None]:
    """Encode items at the best level at which all of them fit in the budget; all None where none does."""
    for level in levels[_level(items, levels, encode, budget)[0] :]:
        made: list[Encoded | None] = []
        left = budget
        for item in items:
            made.append(encode(item, level) if item else None)
            left -= _bytes(made[-1:])
            if left < 0:
                break
        else:
            return made
    return [None] * len(items)


def _level(
    items: Sequence[Item], levels: Sequence[Level], encode: Callable[[Item, Level], Encoded | None], budget: int
) -> tuple[int, int]:
    """Return the first level that should fit, judged by some of the items, and the bytes it takes for all."""
    there = [item for item in items if item]
    some = [there[i * len(there) // SAMPLE] for i in range(SAMPLE)] if len(there) > SAMPLE else there
    if not some:
        return 0, 0
    factor = len(there) / len(some) * (MARGIN if len(there) > len(some) else 1)
    low, high, taken = 0, len(levels), 0  # levels go from large to small, so that it is found by halving
    while low < high:
        middle = 0 if low == 0 and high == len(levels) else (low + high) // 2  # most reports fit at once
        needed = round(factor * _bytes([encode(item, levels[middle]) for item in some]))
        if needed <= budget:
            high, taken = middle, needed
        else:
            low = middle + 1
    return low, taken


def _bytes(made: Sequence[str | Sprite | None]) -> int:
    return sum(len(one.src if isinstance(one, Sprite) else one) for one in made if one is not None)


def _still(paths: Sequence[Path], side: int, quality: int, broken: set[Path]) -> str | None:
    """Return the first picture that can be read as a data URI."""
    images = (_open(path, side, broken) for path in paths)
    return next((_uri(image, quality) for image in images if image is not None), None)


def _sprite(steps: Mapping[int, Path], level: tuple[int, int], broken: set[Path]) -> Sprite | None:
    """Return small pictures side by side; those that cannot be read are left out."""
    side, most = level
    chosen = _spread(steps, most)
    frames = {step: image for step, path in chosen.items() if (image := _open(path, side, broken)) is not None}
    if not frames:
        return None
    last = frames[max(frames)]
    width, height = _aligned(last.width, last.height)
    strip = Image.new("RGB", (width * len(frames), height))
    for place, image in enumerate(frames.values()):
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        strip.paste(image, (place * width, 0))
    return Sprite(_uri(strip, QUALITIES["sprite"]), list(frames), width, height)


def _spread(steps: Mapping[int, Path], most: int) -> dict[int, Path]:
    """Return at most so many of the pictures, evenly spread, the last among them."""
    known = sorted(steps.items())
    if len(known) <= most or most == 1:
        return dict(known[-most:])
    return dict(known[round(i * (len(known) - 1) / (most - 1))] for i in range(most))


def _aligned(width: int, height: int) -> tuple[int, int]:
    """Return a size of the same shape, no larger, whose width is a multiple of ``BLOCK`` where that costs little."""
    fitted = width // BLOCK * BLOCK
    return (fitted, max(1, round(height * fitted / width))) if fitted > width / 2 else (width, height)


def _open(path: Path, side: int, broken: set[Path]) -> Image.Image | None:
    """Read a picture upright as sRGB, no larger than ``side`` pixels; None, and noted, if it cannot be read."""
    if path in broken:
        return None
    try:
        image = decoding.read(path, WHITE, side, MOST_PIXELS)
    except UserError:
        broken.add(path)
        return None
    scale = side / max(image.size)
    if scale >= 1:
        return image
    shape = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(shape, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _size(path: Path, broken: set[Path]) -> tuple[int, int] | None:
    """Return a picture's (width, height) in pixels from its header; None, and noted, if it cannot be read."""
    if (size := decoding.upright_size(path)) is None:
        broken.add(path)
    return size


def _uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

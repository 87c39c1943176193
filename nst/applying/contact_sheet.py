"""The contact sheet of a folder: each photograph above its painting, with its name."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST = 24  # pairs on a sheet
MOST_COLUMNS = 6
SIDE = 240  # pixels: the width of a column, and the most that a picture is high
GAP, MARGIN, TEXT = 6, 20, 13
PAPER, INK = (255, 255, 255), (64, 64, 64)


def chosen(count: int, most: int = MOST) -> list[int]:
    """Return which of so many pictures are shown: all, or as many as there is room for, evenly spread."""
    return [round(place * (count - 1) / (most - 1)) for place in range(most)] if count > most else list(range(count))


def draw(pairs: Sequence[tuple[Image.Image, Image.Image, str]]) -> np.ndarray:
    """Draw a contact sheet.

    Args:
        pairs: photograph, painting and name of each, from left to right and from top to bottom.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    columns = min(len(pairs), MOST_COLUMNS, max(math.ceil(math.sqrt(2 * len(pairs))), 1))
    small = [(_small(photograph), _small(painting), name) for photograph, painting, name in pairs]
    rows = [small[begin : begin + columns] for begin in range(0, len(small), columns)]
    heights = [(max(cell[0].height for cell in row), max(cell[1].height for cell in row)) for row in rows]
    font, line = ImageFont.load_default(TEXT), TEXT + 2 * GAP
    width = 2 * MARGIN + columns * SIDE + (columns - 1) * MARGIN
    height = 2 * MARGIN + sum(top + GAP + bottom + line for top, bottom in heights) + (len(rows) - 1) * GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    y = MARGIN
    for row, (top, bottom) in zip(rows, heights, strict=True):
        for column, (photograph, painting, name) in enumerate(row):
            x = MARGIN + column * (SIDE + MARGIN)
            sheet.paste(photograph, (x + (SIDE - photograph.width) // 2, y + top - photograph.height))
            sheet.paste(painting, (x + (SIDE - painting.width) // 2, y + top + GAP))
            middle = x + SIDE / 2, y + top + GAP + painting.height + GAP
            pen.text(middle, _shortened(name, font), INK, font, anchor="ma")
        y += top + GAP + bottom + line + GAP
    return np.asarray(sheet)


def _small(picture: Image.Image) -> Image.Image:
    scale = min(SIDE / picture.width, SIDE / picture.height)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _shortened(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a name, its middle left out where it would be wider than its column."""
    text = name = name.encode("latin-1", "replace").decode("latin-1")  # all that the font is sure to have
    kept = len(name)
    while font.getlength(text) > SIDE and kept > 2:
        kept -= 1
        text = f"{name[: (kept + 1) // 2]}...{name[len(name) - kept // 2 :]}"
    return text
